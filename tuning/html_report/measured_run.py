"""What a report shows of one run: its counts, its curves and its pictures, read from the folder of runs."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from shards.images import encode_jpeg
from shards.layer import Layer, ShardError, split_of
from shards.reader import read_entry
from shards.records import BadSampleError, Sample
from tuning.html_report.charts import Series
from tuning.label_maps import LabelMaps, Truth, maps_of, truth_of
from tuning.leaderboard import Row
from tuning.lineage import Ancestor
from tuning.named_results import CompareError, Result, read_record
from tuning.paired_comparison import class_intervals, confusion_of, image_scores_of, rows_of
from tuning.pixel_counts import ImageCounts, count_images
from wsss.pictures.sheets import error_map, fit, overlay

CURVE = "curve.jsonl"
"""The curve that a training writes: a line of JSON per point, with `step` and `values`."""


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """IoU of a class with its interval, and in how many images it is."""

    name: str
    iou: float | None
    low: float | None
    high: float | None
    images: int
    training_images: int


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """A result with everything that was counted of its label maps."""

    result: Result
    others: tuple[Row, ...]
    """The evaluations of the same pipeline."""
    classes: tuple[ClassScore, ...]
    confusion: np.ndarray
    """i64[C, C]."""
    names: tuple[str, ...]
    maps: LabelMaps = field(repr=False)
    truth: Truth = field(repr=False)
    ranked: tuple[tuple[str, float], ...] = field(repr=False)
    """Images and their mean IoU, best first."""


def measure(result: Result, rows: Sequence[Row], *, runs: Path, on_progress: Callable[[int, int], None]) -> MeasuredRun:
    """Count the label maps of a result. Raises `CompareError` if there are no masks, or if something is gone."""
    maps, truth = maps_of(result, runs=runs), truth_of(result, runs=runs)
    keys = [key for key in maps.places if truth is not None and key in truth.masked]
    if truth is None or not keys:
        raise CompareError(f"{result.label} has no masks to be measured with; wsss compare measures agreement")
    masks = [(truth.layer, truth.places)]
    found = count_images(keys, maps=[maps], truths=masks, positions=truth.positions, on_progress=on_progress)
    counts = [one for one in found if not one.problem]
    if not counts:
        raise CompareError(f"no image of {result.label} can be measured")
    recorded = result.record.tables.get("per_class", []) if result.record else []
    names = ("background", *(truth.classes or (str(row["class"]) for row in recorded[1:])))
    row = result.row
    return MeasuredRun(
        result=result,
        others=tuple(one for one in rows if row is not None and one.pipeline == row.pipeline),
        classes=_class_scores(counts, names, truth),
        confusion=confusion_of([one.against_truth[0] for one in counts], num_classes=len(names)).numpy(),
        names=names,
        maps=maps,
        truth=truth,
        ranked=_ranked(counts),
    )


def _class_scores(counts: Sequence[ImageCounts], names: Sequence[str], truth: Truth) -> tuple[ClassScore, ...]:
    rows = rows_of([one.against_truth for one in counts])
    iou_C, bounds_2C = class_intervals(rows, num_classes=len(names))
    in_truth = rows[rows[:, 2] > 0]
    images, training = Counter(in_truth[:, 1].tolist()), training_images(truth.layer)
    values = zip(names, iou_C.tolist(), *bounds_2C.tolist(), strict=True)
    return tuple(
        ClassScore(
            name=name, iou=_known(iou), low=_known(low), high=_known(high), images=images[number],
            training_images=training[number],
        )
        for number, (name, iou, low, high) in enumerate(values)
    )  # fmt: skip


def training_images(layer: Layer) -> Counter[int]:
    """Class -> images of the split train that show it; empty if there is no such split."""
    found: Counter[int] = Counter()
    try:
        for shard in layer.shards():
            if split_of(shard) == "train":
                for classes in layer.manifest_entry(shard).entries.metadata("classes"):
                    found.update(classes or ())
    except ShardError:
        return Counter()
    return found


def _ranked(counts: Sequence[ImageCounts]) -> tuple[tuple[str, float], ...]:
    rows = rows_of([one.against_truth for one in counts])
    scores = image_scores_of(rows, system=0, num_images=len(counts))
    return tuple(sorted(zip((one.key for one in counts), scores, strict=True), key=lambda one: (-one[1], one[0])))


def training_curves(lineage: Ancestor, *, runs: Path) -> Iterator[tuple[str, list[Series]]]:
    """Of every training behind a result: its name, and its curves by step."""
    for one in lineage.all().values():
        if one.kind.startswith("train_"):
            folder = one.folder(runs)
            points = list(_points(folder / CURVE)) or _epochs(folder)
            names = dict.fromkeys(name for _, values in points for name in values)
            series = [
                Series(name, *zip(*((step, values[name]) for step, values in points if name in values), strict=True))
                for name in names
            ]
            if series:
                yield one.name, series


def _points(path: Path) -> Iterator[tuple[float, dict[str, float]]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            point = json.loads(line)
            yield float(point["step"]), dict(point["values"])
        except (ValueError, KeyError, TypeError):  # a line that is still being written
            return


def _epochs(folder: Path) -> list[tuple[float, dict[str, float]]]:
    """The history by epoch, of a training that wrote no curve."""
    record = read_record(folder)
    history = record.tables.get("history", []) if record is not None else []
    found = []
    for row in history:
        values = {name: float(cast(float, value)) for name, value in row.items() if isinstance(value, int | float)}
        found.append((values.pop("step", 0.0), {name: value for name, value in values.items() if name != "epoch"}))
    return found


def threshold_curves(run: MeasuredRun, *, runs: Path) -> Iterator[tuple[str, list[Series], list[float]]]:
    """Of every evaluation of scores in the pipeline: its name, its curves, and the thresholds chosen on each half."""
    folders = {row.instance: runs.absolute() / "store" / f"evaluate-{row.fingerprint[:16]}" for row in run.others}
    folders.setdefault(run.result.instance, run.result.folder)
    for name, folder in folders.items():
        path = folder / f"threshold_curve.{run.maps.split}.csv"
        if not path.is_file():
            continue
        with path.open(newline="") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        x = [row["threshold"] for row in rows]
        words = {"mean_iou": "mean IoU", "over_activation": "over-activation", "under_activation": "under-activation"}
        series = [Series(text, x, [row[key] for row in rows]) for key, text in words.items() if key in rows[0]]
        record = read_record(folder)
        metrics = record.metrics if record is not None else {}
        keys = (f"{run.maps.split}.threshold_{fold}" for fold in "ab")
        yield name, series, [metrics[key] for key in keys if key in metrics]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A small picture as JPEG."""

    jpeg: bytes
    size: tuple[int, int]
    alt: str


def contact_rows(run: MeasuredRun, *, num_images: int) -> Iterator[tuple[str, float, list[Tile]]]:
    """Images from the best to the worst, evenly spaced in rank: key, mean IoU, and four pictures."""
    places = np.unique(np.linspace(0, len(run.ranked) - 1, num_images).round().astype(int)).tolist()
    for place in places:
        key, score = run.ranked[place]
        where = run.truth.places[key]
        sample = cast(Sample, read_entry(run.truth.layer, where.shard, where.entry))
        label = run.maps.read(run.maps.places[key], position=run.truth.positions.get(key, 0), size=sample.size)
        try:
            image = sample.image
        except BadSampleError:  # its label map was measured, but the image cannot be shown
            continue
        assert label is not None and sample.mask is not None
        pictures = {
            "image": image,
            f"truth: {_classes_in(sample.mask, run.names)}": overlay(image, sample.mask),
            f"label map: {_classes_in(label, run.names)}": overlay(image, label),
            "errors": error_map(image, label, truth=sample.mask),
        }
        yield key, score, [_tile(picture, alt=f"{key}, {name}") for name, picture in pictures.items()]


def _tile(picture: np.ndarray, *, alt: str) -> Tile:
    small = np.asarray(fit(picture))
    return Tile(jpeg=encode_jpeg(small), size=(small.shape[0], small.shape[1]), alt=alt)


def _classes_in(label: np.ndarray, names: Sequence[str]) -> str:
    present = [names[number] for number in np.unique(label).tolist() if 0 < number < len(names)]
    return ", ".join(present) or "background only"


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
