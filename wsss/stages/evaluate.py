"""evaluate: any layer of maps, seeds, labels or predictions against the masks, at the original size.

What is measured follows from the record. Label maps: mean IoU, mean accuracy, pixel accuracy, boundary IoU, the scores
of every image by itself. Instances: the same of their classes, and how many there are (no mask tells instances apart).
Score maps: the same at the background threshold that is best on one half of the split and scored on the other, and the
reverse; but for boundary IoU and single images, which need one label map and not one per threshold. Seeds: how much of
the image they cover, and how much of that is right.

Which classes a mean IoU is taken over is told by `wsss.ops.confusion.Scores`: `mean_iou` leaves out those in neither
truth nor prediction (`absent_classes`), `mean_iou_all_classes` counts them as 0, and `mean_iou_present`, over the
classes of the truth, is the one that no network gains on by never predicting a class (`skipped_classes`).

Where predict kept what subsets of its views give (its setting `ablation`), each has its mean IoU beside the
prediction's: `val.mean_iou.none` and so on.

Every mean IoU of a layer has an interval: 95 % of what it would be on images drawn anew from those measured. Score
maps leave their counts by score bin, from which a sweep reads any background threshold without making labels; this
holds for labels that the threshold alone makes: with a dense CRF after it, every threshold costs a CRF of its own.

Shape letters: `C` classes with background, `H W` pixels, `N` score bins.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, cast

import numpy as np
import torch
from pydantic import Field

from shards.files import write_bytes
from shards.layer import split_of
from shards.reader import join_shard
from shards.records import InstanceLabel, Missing, Sample, SeedRecord
from wsss.contract.counts import Counts
from wsss.contract.settings import settings
from wsss.contract.stage import Instance, Map, Outcome, Reduce, ShardCounter, Splits
from wsss.ops.bootstrap import mean_iou_interval
from wsss.ops.boundary_iou import boundary_iou
from wsss.ops.confusion import Scores, activation_rates
from wsss.ops.threshold_curve import NUM_BINS, activation_curves, curve, two_fold_threshold
from wsss.pictures.plots import draw_curve
from wsss.stages.evaluation.counts import (
    FOLDS,
    LABELLED,
    SCORED,
    TALLIES,
    add_image,
    add_subsets,
    count_boundary,
    counts_path,
    empty_counts,
    empty_rows,
    fold_rows,
    save_threshold_counts,
    subset_mean_iou,
)
from wsss.stages.evaluation.pictures import (
    confusion_table,
    places_of,
    save_confusion_picture,
    save_galleries,
    save_image_scores,
)
from wsss.stages.predict import Predict

NUM_REPLICATES, LEVEL = 1000, 0.95
"""Of the bootstrap interval. With 1000 its ends are settled to about a tenth of its width."""


@settings
class Evaluate(Reduce):
    """Measure a layer against the masks. Masks are for measuring only."""

    kind: ClassVar[str] = "evaluate"
    revision: ClassVar[int] = 3
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "records": (
            "predict",
            "make_pseudo_labels",
            "make_instance_labels",
            "make_scores",
            "make_seeds",
            "make_cams",
            "make_segmenter_maps",
        ),
    }

    title: str = ""
    """Name of the row in the table; the instance's own where empty."""
    splits: Splits = ("val",)
    """Splits to measure, each by itself; the last one gives the figures of the leaderboard."""
    boundary_width: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Width of the bands of boundary IoU as a share of the image's diagonal, for label maps; 0 leaves it out."""
    num_gallery_images: Annotated[int, Field(ge=0, le=100)] = 8
    """Rows of the pictures of the best and of the worst images of a split, for label maps; 0 draws none."""

    def check(self, instance: Instance) -> None:
        records = instance.inputs["records"].stage
        assert isinstance(records, Map)
        if absent := sorted(set(self.splits) - set(records.splits)):
            raise ValueError(
                f"{instance.name}.splits names {absent[0]!r}, which {instance.inputs['records'].name} does not make; "
                f"it makes {', '.join(records.splits)}"
            )

    def shards(self, instance: Instance) -> list[str]:
        return [shard for shard in instance.inputs["records"].layer.shards() if split_of(shard) in self.splits]

    def skip_reason(self, instance: Instance) -> str:
        """Data without masks are no fault: the run goes on to its predictions."""
        samples = instance.inputs["samples"].layer
        rows = (row for split in self.splits for row in samples.rows(split))
        if any(fact is not False for row in rows for fact in row.entries.facts("has_mask")):  # None: it is not known
            return ""
        splits = " and ".join(map(repr, self.splits))
        return f"no image of split {splits} has a mask, so nothing can be measured"

    def counter(self, instance: Instance) -> ShardCounter:
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "records")}
        kind, num_classes = layers["records"].kind, len(instance.taxonomy) + 1
        subsets = _subsets(instance)

        def count(shard: str) -> Counts:
            split = split_of(shard)
            sums = {
                f"{s}.{name}": array
                for s in self.splits
                for name, array in empty_counts(kind, num_classes, subsets=subsets).items()
            }
            rows = {s: [empty_rows(kind)] for s in self.splits}
            for joined in join_shard(layers, shard, how="inner"):
                if isinstance(joined, Missing):
                    sums[f"{split}.{'left_out' if joined.left_out else 'missing'}"] += 1
                    continue
                sample = cast(Sample, joined["samples"])
                if sample.mask is None:
                    sums[f"{split}.unmasked"] += 1
                    continue
                sums[f"{split}.images"] += 1
                rows[split].append(add_image(sums[f"{split}.fold{sample.position % FOLDS}"], joined["records"], sample))
                add_subsets(sums, split, joined["records"], sample, subsets=subsets)
                if kind in LABELLED and self.boundary_width > 0:
                    sums[f"{split}.boundary"] += count_boundary(
                        joined["records"], sample, num_classes=num_classes, width=self.boundary_width
                    )
                if isinstance(joined["records"], InstanceLabel):
                    sums[f"{split}.instances"] += len(joined["records"].classes)
            return Counts(sums=sums, rows={s: np.concatenate(found) for s, found in rows.items()})

        return count

    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        records = instance.inputs["records"]
        metrics: dict[str, float] = {"labels_given": float(_labels_given(instance))}
        tables: dict[str, list[dict[str, object]]] = {}
        artifacts: dict[str, str] = {}
        for split in self.splits:
            metrics |= {f"{split}.{name}": float(counts.total(f"{split}.{name}")) for name in TALLIES}
            if not counts.total(f"{split}.images"):
                continue  # the table tells how many have no mask, or no record
            found = _summarise(records.layer.kind, counts, instance, split)
            if records.layer.kind == InstanceLabel.kind:
                found.metrics["instances_per_image"] = counts.total(f"{split}.instances") / counts.total(
                    f"{split}.images"
                )
            for name in _subsets(instance):
                found.metrics[f"mean_iou.{name}"] = subset_mean_iou(counts, split, name)
            metrics |= {f"{split}.{name}": value for name, value in found.metrics.items()} | found.metrics
            artifacts |= found.artifacts
            for name, rows in found.tables.items():
                tables[f"{name}.{split}"] = tables[name] = rows
        return Outcome(metrics=metrics, tables=tables, artifacts=artifacts)


def _labels_given(instance: Instance) -> bool:
    """True where what is measured was made with the labels of the images."""
    records = instance.inputs["records"].stage
    return not isinstance(records, Predict) or records.labels != "none"


def _subsets(instance: Instance) -> tuple[str, ...]:
    """Subsets of the views whose label maps the records hold."""
    records = instance.inputs["records"].stage
    return records.ablation if isinstance(records, Predict) else ()


def _summarise(kind: str, counts: Counts, instance: Instance, split: str) -> Outcome:
    """Metrics, tables and files of one split."""
    folds = [counts.sums[f"{split}.fold{fold}"] for fold in range(FOLDS)]
    if kind == SeedRecord.kind:
        return Outcome(metrics=_seed_metrics(np.sum(folds, axis=0)))
    metrics: dict[str, float] = {}
    tensors = [torch.from_numpy(fold) for fold in folds]
    if kind in SCORED:
        chosen = two_fold_threshold(tensors[0], tensors[1])
        confusion_CC, thresholds = chosen.confusion, (chosen.threshold_from_a, chosen.threshold_from_b)
        mean_iou_N = curve(tensors[0] + tensors[1])
        metrics = {"threshold_a": thresholds[0], "threshold_b": thresholds[1]}
        metrics |= {"best_threshold": int(mean_iou_N.argmax()) / NUM_BINS, "best_mean_iou": float(mean_iou_N.max())}
        files = _save_curve(instance, split, folds, thresholds)
    else:
        confusion_CC, files = tensors[0] + tensors[1], _save_single_images(counts, instance, split)
        for fold, matrix in enumerate(tensors):
            files |= _save_confusion(instance, f"{split}.fold{fold}", matrix)
    scores, (low, high) = Scores.from_confusion(confusion_CC), _interval(counts, instance, split)
    rows = _per_class(scores, instance)
    if kind in LABELLED and cast(Evaluate, instance.stage).boundary_width > 0:
        boundary_C = boundary_iou(torch.from_numpy(counts.sums[f"{split}.boundary"]))
        metrics["boundary_iou"] = float(boundary_C.nanmean())
        rows = [row | {"boundary_iou": _or_none(value)} for row, value in zip(rows, boundary_C.tolist(), strict=True)]
    metrics |= _metrics(scores) | {"mean_iou_low": low, "mean_iou_high": high}
    metrics["over_activation"], metrics["under_activation"] = activation_rates(confusion_CC)
    files |= save_confusion_picture(confusion_CC, instance, split)
    tables = {"per_class": rows, "confused_pairs": confusion_table(confusion_CC, instance)}
    return Outcome(metrics=metrics, tables=tables, artifacts=files)


def _metrics(scores: Scores) -> dict[str, float]:
    return {
        "mean_iou": scores.mean_iou,
        "mean_iou_present": scores.mean_iou_present,
        "mean_iou_all_classes": scores.mean_iou_all_classes,
        "mean_accuracy": scores.mean_accuracy,
        "pixel_accuracy": scores.pixel_accuracy,
        "freq_weighted_iou": scores.freq_weighted_iou,
        "absent_classes": float(scores.num_absent_classes),
        "skipped_classes": float(scores.num_skipped_classes),
    }


def _save_single_images(counts: Counts, instance: Instance, split: str) -> dict[str, str]:
    """The scores of every image, and pictures of the best and the worst; file name -> path."""
    stage, places = cast(Evaluate, instance.stage), places_of(instance, split)
    scores, files = save_image_scores(instance, split, counts.rows[split], places=places)
    if stage.num_gallery_images:
        files |= save_galleries(instance, split, scores, places=places, num_images=stage.num_gallery_images)
    return files


def _interval(counts: Counts, instance: Instance, split: str) -> tuple[float, float]:
    """Equal for equal images, whatever the order in which their shards were counted."""
    return mean_iou_interval(
        fold_rows(counts, split),
        num_classes=len(instance.taxonomy) + 1,
        num_replicates=NUM_REPLICATES,
        level=LEVEL,
        generator=torch.Generator().manual_seed(instance.seed),
    )


def _save_curve(instance: Instance, split: str, folds: list[np.ndarray], chosen: tuple[float, float]) -> dict[str, str]:
    """The curves of all images as a picture and as CSV, and the counts of both folds; file name -> path."""
    counts_CCN = torch.from_numpy(folds[0] + folds[1])
    over_N, under_N = activation_curves(counts_CCN)
    curves = {"mean_iou": curve(counts_CCN), "over_activation": over_N, "under_activation": under_N}
    columns = {name: values_N.tolist() for name, values_N in curves.items()}
    paths = {ending: instance.path / f"threshold_curve.{split}.{ending}" for ending in ("png", "csv")}
    write_bytes(paths["png"], draw_curve(**columns, chosen=chosen, title=f"{instance.name}, {split}"))
    rows = [[i / NUM_BINS, *values] for i, values in enumerate(zip(*columns.values(), strict=True))]
    lines = [",".join(["threshold", *columns]), *(",".join(map(str, row)) for row in rows)]
    write_bytes(paths["csv"], ("\n".join(lines) + "\n").encode())
    paths["npz"] = counts_path(instance.path, split)
    save_threshold_counts(paths["npz"], folds)
    return {path.name: str(path) for path in paths.values()}


def _save_confusion(instance: Instance, name: str, matrix: torch.Tensor) -> dict[str, str]:
    """A confusion matrix as CSV: the sweep adds and compares the folds of its trials."""
    path = instance.path / f"confusion.{name}.csv"
    write_bytes(path, "\n".join(",".join(map(str, row)) for row in matrix.tolist()).encode())
    return {path.name: str(path)}


def _seed_metrics(counts: np.ndarray) -> dict[str, float]:
    """Share of pixels that are seeds, and of those the share that is right."""
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
