"""evaluate: any layer of maps, seeds, labels or predictions against the masks, at the original size.

What is measured follows from the record. Label maps: mean IoU, mean accuracy, pixel accuracy. Instances: the same of
their classes, and how many there are (no mask tells instances apart). Score maps: the same at the background threshold
that is best on one half of the split and scored on the other, and the reverse. Seeds: how much of the image they cover,
and how much of that is right.

Shape letters: `C` classes with background, `H W` pixels, `N` score bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, cast

import numpy as np
import torch

from shards.files import write_bytes
from shards.layer import split_of
from shards.reader import join_shard
from shards.records import (
    IGNORE,
    CamRecord,
    InstanceLabel,
    Missing,
    Prediction,
    PseudoLabel,
    Sample,
    ScoreRecord,
    SeedRecord,
)
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.threshold_curve import NUM_BINS, curve, curve_counts, two_fold_threshold
from wsss.plots import draw_curve
from wsss.settings import settings
from wsss.stages.make_seeds import upsample
from wsss.stages.stage import Counts, Instance, Map, Outcome, Reduce, ShardCounter, Splits

_TALLIES = ("images", "missing", "left_out", "unmasked")
FOLDS = 2
"""Fold of a sample: its position in its split's list, odd or even."""


@settings
class Evaluate(Reduce):
    """Measure a layer against the masks. Masks are for measuring only."""

    kind: ClassVar[str] = "evaluate"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "records": (
            "predict",
            "make_pseudo_labels",
            "make_instance_labels",
            "make_scores",
            "make_seeds",
            "make_cams",
        ),
    }

    title: str = ""
    """Name of the row in the table; the instance's own where empty."""
    splits: Splits = ("val",)
    """Splits to measure, each by itself; the last one gives the figures of the leaderboard."""

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

    def counter(self, instance: Instance) -> ShardCounter:
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "records")}
        kind, num_classes = layers["records"].kind, len(instance.taxonomy) + 1

        def count(shard: str) -> Counts:
            split = split_of(shard)
            counts = {f"{s}.{name}": array for s in self.splits for name, array in _zeros(kind, num_classes).items()}
            for joined in join_shard(layers, shard, how="inner"):
                if isinstance(joined, Missing):
                    counts[f"{split}.{'left_out' if joined.left_out else 'missing'}"] += 1
                    continue
                sample = cast(Sample, joined["samples"])
                if sample.mask is None:
                    counts[f"{split}.unmasked"] += 1
                    continue
                counts[f"{split}.images"] += 1
                _add(counts[f"{split}.fold{sample.position % FOLDS}"], joined["records"], sample, num_classes)
                if isinstance(joined["records"], InstanceLabel):
                    counts[f"{split}.instances"] += len(joined["records"].classes)
            return counts

        return count

    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        records = instance.inputs["records"]
        metrics: dict[str, float] = {"labels_given": 0.0 if records.layer.kind == Prediction.kind else 1.0}
        tables: dict[str, list[dict[str, object]]] = {}
        artifacts: dict[str, str] = {}
        for split in self.splits:
            if counts[f"{split}.images"] == 0:
                unmasked = int(counts[f"{split}.unmasked"])
                raise ValueError(
                    f"{instance.name}: no image of split {split!r} has a mask ({unmasked} without); "
                    f"there is nothing to measure, take {split!r} out of {instance.name}.splits"
                )
            folds = [counts[f"{split}.fold{fold}"] for fold in range(FOLDS)]
            found, rows, files = _summarise(records.layer.kind, folds, instance, split)
            if records.layer.kind == InstanceLabel.kind:
                found["instances_per_image"] = float(counts[f"{split}.instances"] / counts[f"{split}.images"])
            metrics |= {f"{split}.{name}": value for name, value in found.items()} | found
            metrics |= {f"{split}.{name}": float(counts[f"{split}.{name}"]) for name in _TALLIES}
            artifacts |= files
            if rows:
                tables[f"per_class.{split}"] = tables["per_class"] = rows
        return Outcome(metrics=metrics, tables=tables, artifacts=artifacts)


def _zeros(kind: str, num_classes: int) -> Counts:
    """Empty counts: totals, and per fold a confusion matrix or a curve of them."""
    shape: tuple[int, ...] = (num_classes, num_classes)
    if kind in (CamRecord.kind, ScoreRecord.kind):
        shape = (num_classes, num_classes, NUM_BINS)
    elif kind == SeedRecord.kind:
        shape = (num_classes, num_classes + 1)  # the last column counts undecided pixels
    folds = {f"fold{fold}": np.zeros(shape, dtype=np.int64) for fold in range(FOLDS)}
    tallies = (*_TALLIES, "instances") if kind == InstanceLabel.kind else _TALLIES
    return folds | {name: np.zeros((), dtype=np.int64) for name in tallies}


def _add(total: np.ndarray, record: object, sample: Sample, num_classes: int) -> None:
    """Add one image to the counts of its fold, in place."""
    assert sample.mask is not None
    truth_HW = torch.from_numpy(sample.mask)
    if isinstance(record, CamRecord | ScoreRecord):
        maps = record.maps if isinstance(record, CamRecord) else record.scores
        curve_counts(
            upsample(maps, sample.size, device=torch.device("cpu")).clamp(0, 1),
            classes=record.classes.tolist(),
            truth_HW=truth_HW,
            num_classes=num_classes,
            ignore_index=IGNORE,
            total=torch.from_numpy(total),
        )
    elif isinstance(record, SeedRecord):
        label_HW = torch.from_numpy(record.label).long()
        label_HW[label_HW == IGNORE] = num_classes
        seen = truth_HW != IGNORE
        cells = truth_HW[seen].long() * (num_classes + 1) + label_HW[seen]
        total += torch.bincount(cells, minlength=total.size).view(total.shape).numpy()
    else:
        assert isinstance(record, PseudoLabel | Prediction | InstanceLabel)
        prediction_HW = torch.from_numpy(record.mask)
        total += confusion_matrix(truth_HW, prediction_HW, num_classes=num_classes, ignore_index=IGNORE).numpy()


def _summarise(
    kind: str, folds: list[np.ndarray], instance: Instance, split: str
) -> tuple[dict[str, float], list[dict[str, object]], dict[str, str]]:
    """Metrics, the table per class and the files of one split."""
    tensors = [torch.from_numpy(fold) for fold in folds]
    if kind == SeedRecord.kind:
        return _seed_metrics(np.sum(folds, axis=0)), [], {}
    metrics, files = {}, {}
    if kind in (CamRecord.kind, ScoreRecord.kind):
        chosen = two_fold_threshold(tensors[0], tensors[1])
        confusion_CC = chosen.confusion
        metrics = {"threshold_a": chosen.threshold_from_a, "threshold_b": chosen.threshold_from_b}
        mean_iou_N = curve(tensors[0] + tensors[1])
        metrics |= {"best_threshold": int(mean_iou_N.argmax()) / NUM_BINS, "best_mean_iou": float(mean_iou_N.max())}
        path = instance.path / f"threshold_curve.{split}.png"
        chosen_thresholds = (chosen.threshold_from_a, chosen.threshold_from_b)
        write_bytes(path, draw_curve(mean_iou_N.tolist(), chosen=chosen_thresholds, title=f"{instance.name}, {split}"))
        files = {path.name: str(path)}
    else:
        confusion_CC = tensors[0] + tensors[1]
        for fold, matrix in enumerate(tensors):
            files |= _save_confusion(instance, f"{split}.fold{fold}", matrix)
    scores = Scores.from_confusion(confusion_CC)
    metrics |= {
        "mean_iou": scores.mean_iou,
        "mean_accuracy": scores.mean_accuracy,
        "pixel_accuracy": scores.pixel_accuracy,
        "freq_weighted_iou": scores.freq_weighted_iou,
        "absent_classes": float(scores.num_absent_classes),
    }
    return metrics, list(_per_class(scores, instance)), files


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


def _per_class(scores: Scores, instance: Instance) -> Iterator[dict[str, object]]:
    iou, accuracy = scores.iou_per_class.tolist(), scores.accuracy_per_class.tolist()
    for class_id, (class_iou, class_accuracy) in enumerate(zip(iou, accuracy, strict=True)):
        yield {
            "class_id": class_id,
            "class": instance.taxonomy.name_of(class_id),
            "iou": None if np.isnan(class_iou) else class_iou,
            "accuracy": None if np.isnan(class_accuracy) else class_accuracy,
        }
