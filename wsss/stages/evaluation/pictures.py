"""Output of `evaluate` besides metrics: scores of single images, pictures of the best and worst, confused classes.

Shape letters: `C` classes with background.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch

from shards.files import write_bytes
from shards.label_type import BACKGROUND, label_type
from shards.layer import split_of
from shards.manifest_entry import RecordEntry
from shards.reader import read_entry
from shards.records import BadSampleError, InstanceLabel, Prediction, PseudoLabel, Sample
from wsss.contract.stage import Instance
from wsss.ops.confusion import confused_pairs
from wsss.ops.image_scores import ImageScores, image_scores
from wsss.pictures.plots import draw_confusion
from wsss.pictures.sheets import compose, fit, overlay

NUM_PAIRS = 10
"""Number of confused pairs of classes in the table."""
MAX_SHOWN = 12
"""Largest number of classes in the picture of the confusion matrix."""
COLUMN_TITLES = {PseudoLabel.kind: "pseudo label", InstanceLabel.kind: "instances", Prediction.kind: "prediction"}


class Place(NamedTuple):
    """The location of a sample."""

    shard: str
    entry: RecordEntry


def places_of(instance: Instance, split: str) -> dict[int, Place]:
    """Position of a sample within its split -> its location, for the shards of the evaluated layer."""
    samples, records = (instance.inputs[slot].layer for slot in ("samples", "records"))
    return {
        int(entry.metadata["position"]): Place(shard, entry)
        for shard in records.shards()
        if split_of(shard) == split
        for entry in samples.manifest_entry(shard).entries
    }


def save_image_scores(
    instance: Instance, split: str, rows: np.ndarray, *, places: dict[int, Place]
) -> tuple[ImageScores, dict[str, str]]:
    """Write a CSV with a line per evaluated image, by position: key, mean IoU of the image, pixel accuracy."""
    scores = image_scores(torch.tensor(rows))
    path = instance.path / f"image_scores.{split}.csv"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "mean_iou", "pixel_accuracy"])
    for position, *values in zip(*(column.tolist() for column in scores), strict=True):
        writer.writerow([places[position].entry.key, *values])
    write_bytes(path, text.getvalue().encode())
    return scores, {path.name: str(path)}


def save_galleries(
    instance: Instance, split: str, scores: ImageScores, *, places: dict[int, Place], num_images: int
) -> dict[str, str]:
    """Write pictures of the images with the best and the worst mean IoU; ties by position. Returns file name -> path.

    Only the records of these images are read again, one at a time.
    """
    ranked = sorted(zip(*(column.tolist() for column in scores), strict=True), key=lambda row: (row[1], row[0]))
    paths = {}
    for name, chosen in (("best", ranked[::-1]), ("worst", ranked)):
        sheet = _gallery(instance, chosen[:num_images], places=places)
        if sheet is not None:
            path = instance.path / f"{name}.{split}.png"
            write_bytes(path, sheet)
            paths[path.name] = str(path)
    return paths


def _gallery(
    instance: Instance, chosen: Sequence[tuple[int, float, float]], *, places: dict[int, Place]
) -> bytes | None:
    samples, records = (instance.inputs[slot].layer for slot in ("samples", "records"))
    rows, captions = [], []
    seen: set[int] = set()
    for position, mean_iou, pixel_accuracy in chosen:
        shard, entry = places[position]
        of_shard = records.manifest_entry(shard).entries
        made = of_shard[of_shard.keys.index(entry.key)]
        sample = cast(Sample, read_entry(samples, shard, entry))
        label = cast(PseudoLabel | Prediction | InstanceLabel, read_entry(records, shard, made))
        try:
            image = sample.image
        except BadSampleError:  # its mask was evaluated, but the image cannot be shown
            continue
        assert sample.mask is not None
        rows.append([fit(image), fit(overlay(image, label.mask)), fit(overlay(image, sample.mask))])
        captions.append(f"{entry.key}: mean IoU {mean_iou:.1%}, pixel accuracy {pixel_accuracy:.1%}")
        seen |= {*np.unique(label.mask).tolist(), *sample.classes}
    if not rows:
        return None
    columns = ("image", COLUMN_TITLES[records.kind], "truth")
    taxonomy = instance.taxonomy
    legend = sorted(seen - {BACKGROUND, label_type(len(taxonomy)).ignore})
    return compose(rows, columns=columns, taxonomy=taxonomy, legend=legend, captions=captions)


def confusion_table(confusion_CC: torch.Tensor, instance: Instance) -> list[dict[str, object]]:
    """The most confused pairs of classes, by the share of the true class's pixels."""
    return [
        {
            "truth": instance.taxonomy.name_of(pair.truth),
            "prediction": instance.taxonomy.name_of(pair.prediction),
            "pixels": pair.pixels,
            "share": pair.share,
        }
        for pair in confused_pairs(confusion_CC, num_pairs=NUM_PAIRS)
    ]


def save_confusion_picture(confusion_CC: torch.Tensor, instance: Instance, split: str) -> dict[str, str]:
    """Write a heat map of the classes in the most confused pairs; all other predicted classes share one column."""
    shown = shown_classes(confusion_CC)
    in_truth = confusion_CC[shown].sum(dim=1, keepdim=True)
    cells = confusion_CC[shown][:, shown]
    names = [instance.taxonomy.name_of(class_id) for class_id in shown]
    columns = list(names)
    if int(confusion_CC[shown].sum()) > int(cells.sum()):
        cells = torch.cat([cells, in_truth - cells.sum(dim=1, keepdim=True)], dim=1)
        columns.append("(all others)")
    share_RC = torch.where(in_truth > 0, cells.double() / in_truth, torch.nan)
    path = instance.path / f"confusion.{split}.png"
    title = f"{instance.name}, {split}"
    write_bytes(path, draw_confusion(share_RC.tolist(), truth=names, prediction=columns, title=title))
    return {path.name: str(path)}


def shown_classes(confusion_CC: torch.Tensor) -> list[int]:
    """At most `MAX_SHOWN` class ids, ascending: those of the most confused pairs, then other classes that occur."""
    shown: list[int] = []
    seen = (confusion_CC.sum(dim=0) + confusion_CC.sum(dim=1)).nonzero()[:, 0].tolist()
    pairs = [list(pair[:2]) for pair in confused_pairs(confusion_CC, num_pairs=confusion_CC.numel())]
    for classes in [*pairs, *([class_id] for class_id in seen)]:
        new = [class_id for class_id in classes if class_id not in shown]
        if len(shown) + len(new) <= MAX_SHOWN:
            shown += new
    return sorted(shown)
