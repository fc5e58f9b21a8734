"""The results of `evaluate` for one split, from its counts: metrics, tables and files.

Shape letters: `C` classes with background, `H W` pixels, `N` score bins.
"""

from __future__ import annotations

import numpy as np
import torch

from shards.files import write_bytes
from shards.records import SeedRecord
from wsss.contract.counts import Counts
from wsss.contract.stage import Instance, Outcome
from wsss.ops.bootstrap import mean_iou_interval
from wsss.ops.boundary_iou import boundary_iou
from wsss.ops.cell_counts import CellCounts
from wsss.ops.confusion import Scores, activation_rates
from wsss.ops.threshold_curve import NUM_BINS, activation_curves, curve, two_fold_threshold
from wsss.pictures.plots import draw_curve
from wsss.stages.evaluation.counts import (
    LABELLED,
    SCORED,
    counts_path,
    fold_rows,
    fold_totals,
    save_threshold_counts,
)
from wsss.stages.evaluation.pictures import (
    confusion_table,
    places_of,
    save_confusion_picture,
    save_galleries,
    save_image_scores,
)

NUM_REPLICATES, LEVEL = 1000, 0.95
"""Of the bootstrap interval. With 1000 replicates its ends are accurate to about a tenth of its width."""


def summarise(
    counts: Counts,
    instance: Instance,
    split: str,
    *,
    has_boundaries: bool,
    num_gallery_images: int,
    threshold_name: str,
) -> Outcome:
    """Metrics, tables and files of one split; `instance` is the evaluation, its input `records` the evaluated layer."""
    kind = instance.inputs["records"].layer.kind
    if kind == SeedRecord.kind:
        return Outcome(metrics=_seed_metrics(counts.sums[f"{split}.fold0"] + counts.sums[f"{split}.fold1"]))
    metrics: dict[str, float] = {}
    folds = fold_totals(counts, split, kind, len(instance.taxonomy) + 1)
    if kind in SCORED:
        chosen = two_fold_threshold(folds[0], folds[1])
        confusion_CC, thresholds = chosen.confusion, (chosen.threshold_from_a, chosen.threshold_from_b)
        mean_iou_N = curve(_both(folds))
        metrics = {"threshold_a": thresholds[0], "threshold_b": thresholds[1]}
        metrics |= {"best_threshold": int(mean_iou_N.argmax()) / NUM_BINS, "best_mean_iou": float(mean_iou_N.max())}
        files = _save_curve(instance, split, folds, thresholds, threshold_name)
    else:
        matrices = [fold for fold in folds if isinstance(fold, torch.Tensor)]
        confusion_CC = matrices[0] + matrices[1]
        files = _save_single_images(counts, instance, split, num_gallery_images=num_gallery_images)
        for fold, matrix in enumerate(matrices):
            files |= _save_confusion(instance, f"{split}.fold{fold}", matrix)
    scores, (low, high) = Scores.from_confusion(confusion_CC), _interval(counts, instance, split)
    rows = _per_class(scores, instance)
    if kind in LABELLED and has_boundaries:
        boundary_C = boundary_iou(torch.tensor(counts.sums[f"{split}.boundary"]))
        metrics["boundary_iou"] = float(boundary_C.nanmean())
        rows = [row | {"boundary_iou": _or_none(value)} for row, value in zip(rows, boundary_C.tolist(), strict=True)]
    metrics |= _metrics(scores) | {"mean_iou_low": low, "mean_iou_high": high}
    metrics["over_activation"], metrics["under_activation"] = activation_rates(confusion_CC)
    files |= save_confusion_picture(confusion_CC, instance, split)
    tables = {"per_class": rows, "confused_pairs": confusion_table(confusion_CC, instance)}
    return Outcome(metrics=metrics, tables=tables, artifacts=files)


def _both(folds: list[torch.Tensor | CellCounts]) -> torch.Tensor | CellCounts:
    """The sum of both folds."""
    first, second = folds
    if isinstance(first, CellCounts):
        assert isinstance(second, CellCounts)
        return first + second
    assert isinstance(second, torch.Tensor)
    return first + second


def _metrics(scores: Scores) -> dict[str, float]:
    return {
        "mean_iou": scores.mean_iou,
        "mean_iou_present": scores.mean_iou_present,
        "mean_iou_all_classes": scores.mean_iou_all_classes,
        "mean_iou_foreground": scores.mean_iou_foreground,
        "mean_accuracy": scores.mean_accuracy,
        "pixel_accuracy": scores.pixel_accuracy,
        "freq_weighted_iou": scores.freq_weighted_iou,
        "absent_classes": float(scores.num_absent_classes),
        "skipped_classes": float(scores.num_skipped_classes),
    }


def _save_single_images(counts: Counts, instance: Instance, split: str, *, num_gallery_images: int) -> dict[str, str]:
    """Save the scores of every image, and pictures of the best and the worst; returns file name -> path."""
    places = places_of(instance, split)
    scores, files = save_image_scores(instance, split, counts.rows[split], places=places)
    if num_gallery_images:
        files |= save_galleries(instance, split, scores, places=places, num_images=num_gallery_images)
    return files


def _interval(counts: Counts, instance: Instance, split: str) -> tuple[float, float]:
    """Bootstrap interval of the mean IoU; it does not depend on the order in which shards were counted."""
    return mean_iou_interval(
        fold_rows(counts, split),
        num_classes=len(instance.taxonomy) + 1,
        num_replicates=NUM_REPLICATES,
        level=LEVEL,
        generator=torch.Generator().manual_seed(instance.seed),
    )


def _save_curve(
    instance: Instance,
    split: str,
    folds: list[torch.Tensor | CellCounts],
    chosen: tuple[float, float],
    threshold_name: str,
) -> dict[str, str]:
    """Save the curves over all images as picture and CSV, and the counts of both folds; returns file name -> path."""
    counts_CCN = _both(folds)
    over_N, under_N = activation_curves(counts_CCN)
    curves = {"mean_iou": curve(counts_CCN), "over_activation": over_N, "under_activation": under_N}
    columns = {name: values_N.tolist() for name, values_N in curves.items()}
    paths = {ending: instance.path / f"threshold_curve.{split}.{ending}" for ending in ("png", "csv")}
    title = f"{instance.name}, {split}"
    write_bytes(paths["png"], draw_curve(**columns, chosen=chosen, title=title, threshold_name=threshold_name))
    rows = [[i / NUM_BINS, *values] for i, values in enumerate(zip(*columns.values(), strict=True))]
    lines = [",".join(["threshold", *columns]), *(",".join(map(str, row)) for row in rows)]
    write_bytes(paths["csv"], ("\n".join(lines) + "\n").encode())
    paths["npz"] = counts_path(instance.path, split)
    save_threshold_counts(paths["npz"], [x.numpy() if isinstance(x, torch.Tensor) else x for x in folds])
    return {path.name: str(path) for path in paths.values()}


def _save_confusion(instance: Instance, name: str, matrix: torch.Tensor) -> dict[str, str]:
    """Save a confusion matrix as CSV; a sweep adds and compares the folds of its trials."""
    path = instance.path / f"confusion.{name}.csv"
    write_bytes(path, "\n".join(",".join(map(str, row)) for row in matrix.tolist()).encode())
    return {path.name: str(path)}


def _seed_metrics(counts: np.ndarray) -> dict[str, float]:
    """Share of pixels that are seeds, and the share of seeds that is correct."""
    decided = counts[:, :-1]
    foreground = decided[:, 1:].sum()
    right = np.trace(decided)
    return {
        "coverage": float(decided.sum() / max(counts.sum(), 1)),
        "precision": float(right / max(decided.sum(), 1)),
        "foreground_precision": float((right - decided[0, 0]) / max(foreground, 1)),
    }


def _per_class(scores: Scores, instance: Instance) -> list[dict[str, object]]:
    columns = {
        "iou": scores.iou_per_class,
        "recall": scores.accuracy_per_class,
        "precision": scores.precision_per_class,
    }
    return [
        {"class_id": class_id, "class": instance.taxonomy.name_of(class_id)}
        | {name: _or_none(float(values[class_id])) for name, values in columns.items()}
        for class_id in range(len(scores.iou_per_class))
    ]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
