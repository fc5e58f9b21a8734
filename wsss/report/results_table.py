"""The table at the end of a run: one row per `evaluate` instance and split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from rich.table import Table
from rich.text import Text

from shards.records import RunRecord
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe
from wsss.report.markdown_table import markdown_table
from wsss.stages.evaluate import Evaluate
from wsss.stages.train_classifier import TrainClassifier

_SHOWN_CLASSES = 20
_DECIDED = 0.5
"""The probability that F1 decides by."""
_HEADER = ("step", "images", "labels given", "mean IoU", "mean acc.", "pixel acc.", "")
_IS_FIGURE = (False, False, False, True, True, True, False)
SUBSETS = {"none": "one view", "flip": "one scale, mirrored too", "scales": "all scales", "all": "all views"}
"""Subset of a prediction's views -> how the table calls it."""


@dataclass(frozen=True)
class Row:
    """One line of the table. Shares are in [0, 1]; None where the figure does not apply."""

    title: str
    split: str
    labels_given: bool
    mean_iou: float | None = None
    mean_iou_interval: tuple[float, float] | None = None
    """Where 95 % of the mean IoU of images drawn anew lie."""
    mean_accuracy: float | None = None
    pixel_accuracy: float | None = None
    note: str = ""
    kind: str = ""
    """Kind of the stage that was measured."""
    labels: str = ""
    """Fingerprint of the pseudo labels that were measured, or that the measured segmenter learned from."""


def result_rows(recipe: Recipe, records: dict[str, RunRecord]) -> list[Row]:
    """Rows of all evaluations in the recipe's order, as far as they are done."""
    rows: list[Row] = []
    for instance in recipe.instances:
        record, stage = records.get(instance.name), instance.stage
        if record is None or not isinstance(stage, Evaluate):
            continue
        for split in stage.splits:
            measured, title = instance.inputs["records"], stage.title or instance.name
            row = _row(title, split, record.metrics, kind=measured.stage.kind)
            rows.append(replace(row, labels=_labels_behind(measured)))
            rows += _subset_rows(title, split, record.metrics)
    return _with_losses(_with_shares(rows))


def _labels_behind(measured: Instance) -> str:
    if (segmenter := measured.inputs.get("segmenter")) is not None and measured.stage.kind == "predict":
        measured = segmenter.inputs.get("pseudo_labels", segmenter)
    return measured.fingerprint if measured.stage.kind == "make_pseudo_labels" else ""


def _row(title: str, split: str, metrics: dict[str, float], *, kind: str) -> Row:
    def of_split(name: str) -> float | None:
        return metrics.get(f"{split}.{name}")

    notes = []
    if of_split("images") == 0:
        notes.append(f"not measured: {of_split('unmasked') or 0:.0f} images have no mask")
    if (coverage := of_split("coverage")) is not None:
        notes.append(f"{coverage:.1%} of the pixels are seeds, {of_split('precision') or 0:.1%} of them right")
    if (threshold := of_split("threshold_a")) is not None:
        notes.append(f"thresholds {threshold:.3f} and {of_split('threshold_b') or 0:.3f}, two-fold")
    if (instances := of_split("instances_per_image")) is not None:
        notes.append(f"{instances:.1f} instances per image")
    if (boundary := of_split("boundary_iou")) is not None:
        notes.append(f"boundary IoU {_percent(boundary)}")
    if skipped := of_split("skipped_classes"):
        notes.append(
            f"{skipped:.0f} classes never found (over those of the truth {_percent(of_split('mean_iou_present'))})"
        )
    if absent := of_split("absent_classes"):
        notes.append(f"{absent:.0f} classes absent (over all {_percent(of_split('mean_iou_all_classes'))})")
    if missing := of_split("missing"):
        notes.append(f"{missing:.0f} images missing")
    if left_out := of_split("left_out"):
        notes.append(f"{left_out:.0f} images left out by settings")
    low, high = of_split("mean_iou_low"), of_split("mean_iou_high")
    return Row(
        title=title,
        split=split,
        labels_given=bool(metrics["labels_given"]),
        mean_iou=of_split("mean_iou"),
        mean_iou_interval=None if low is None or high is None else (low, high),
        mean_accuracy=of_split("mean_accuracy"),
        pixel_accuracy=of_split("pixel_accuracy"),
        note="; ".join(notes),
        kind=kind,
    )


def _subset_rows(title: str, split: str, metrics: dict[str, float]) -> list[Row]:
    """What subsets of a prediction's views give; each is told against the first of them, and with nothing else."""
    found = [(words, metrics.get(f"{split}.mean_iou.{name}")) for name, words in SUBSETS.items()]
    given, kind = bool(metrics["labels_given"]), f"subset of {title}"
    return [
        Row(title=f"{title}, {words}", split=split, labels_given=given, mean_iou=mean_iou, kind=kind)
        for words, mean_iou in found
        if mean_iou is not None
    ]


def _with_shares(rows: Sequence[Row]) -> list[Row]:
    """Say of every segmentation which share of its own pseudo labels' mean IoU it reaches, on the same split."""
    labels = {(r.labels, r.split): r.mean_iou for r in rows if r.kind == "make_pseudo_labels" and r.mean_iou}
    shared = []
    for row in rows:
        pseudo = labels.get((row.labels, row.split))
        if row.kind == "predict" and row.mean_iou is not None and pseudo is not None:
            share = f"{row.mean_iou / pseudo:.0%} of the pseudo labels' mean IoU"
            row = replace(row, note="; ".join(filter(None, [share, row.note])))
        shared.append(row)
    return shared


def _with_losses(rows: Sequence[Row]) -> list[Row]:
    """Say where a variant (more views, stochastic maps) falls behind the first one of its kind, on the same split."""
    told = []
    for row in rows:
        first = next(r for r in rows if (r.kind, r.split) == (row.kind, row.split))
        if row.mean_iou is not None and first.mean_iou is not None and row.mean_iou < first.mean_iou:
            loss = f"{_percent(first.mean_iou - row.mean_iou)} below {first.title}: no help here"
            row = replace(row, note="; ".join(filter(None, [row.note, loss])))
        told.append(row)
    return told


def classifier_rows(recipe: Recipe, records: dict[str, RunRecord]) -> list[list[str]]:
    """Header, then a row of every classifier that validated: its scores, and F1 class by class where these are few.

    A last column of notes, without a title, where there is something to say.
    """
    rows: list[list[str]] = []
    notes: list[str] = []
    for instance in recipe.instances:
        record = records.get(instance.name)
        if record is None or not isinstance(instance.stage, TrainClassifier) or "val.f1_macro" not in record.metrics:
            continue
        names = ("val.mean_average_precision", "val.f1_macro", "val.f1_micro")
        f1 = {str(row["class"]): cast(float | None, row["f1"]) for row in record.tables["per_class"]}
        of_classes = [_percent(f1.get(name)) for name in instance.taxonomy.names]
        shown = of_classes if len(of_classes) <= _SHOWN_CLASSES else []
        if not rows:
            header = [f"F1 {name}" for name in instance.taxonomy.names] if shown else []
            rows.append(["classifier", "mean AP", "F1 macro", "F1 micro", *header])
        rows.append([instance.name, *(_percent(record.metrics[name]) for name in names), *shown])
        notes.append(_low_probabilities(record.tables["per_class"]))
    if any(notes):
        rows = [[*row, note] for row, note in zip(rows, ["", *notes], strict=True)]
    return rows


def _low_probabilities(per_class: Sequence[Mapping[str, object]]) -> str:
    """Say where an F1 is 0 because all probabilities stay below its threshold."""
    shown = [row for row in per_class if row.get("images") and "highest_probability" in row]
    low = [row for row in shown if cast(float, row["highest_probability"]) <= _DECIDED]
    if not low:
        return ""
    highest = max(cast(float, row["highest_probability"]) for row in low)
    if len(low) == len(shown):
        return f"no probability reaches {_DECIDED} (highest {highest:.2f}), hence F1 = 0; mean AP needs no threshold"
    named = ", ".join(str(row["class"]) for row in low[:3]) + (", ..." if len(low) > 3 else "")
    return f"{len(low)} of {len(shown)} classes never reach {_DECIDED}, hence their F1 = 0: {named}"


def render_classifiers(rows: Sequence[Sequence[str]], *, title: str) -> Table:
    """`classifier_rows` for a terminal."""
    table = Table(title=Text(title), title_justify="left")
    for place, header in enumerate(rows[0]):
        table.add_column(Text(header), justify="right" if place and header else "left")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def markdown_classifiers(rows: Sequence[Sequence[str]]) -> str:
    """`classifier_rows` for a file."""
    header, *rest = rows
    return markdown_table(header, rest, right=[place > 0 and title != "" for place, title in enumerate(header)])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _mean_iou(row: Row) -> str:
    if row.mean_iou is None or row.mean_iou_interval is None:
        return _percent(row.mean_iou)
    low, high = row.mean_iou_interval
    return f"{_percent(row.mean_iou)} ({_percent(low)} to {_percent(high)})"


def _figures(row: Row) -> tuple[str, str, str]:
    return _mean_iou(row), _percent(row.mean_accuracy), _percent(row.pixel_accuracy)


def render(rows: Iterable[Row], *, title: str) -> Table:
    """The table for a terminal."""
    table = Table(title=Text(title), title_justify="left")
    for header, figure in zip(_HEADER, _IS_FIGURE, strict=True):
        table.add_column(header, justify="right" if figure else "left", no_wrap=figure)
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    return table


def markdown(rows: Iterable[Row]) -> str:
    """The table for a file."""
    return markdown_table(_HEADER, map(_cells, rows), right=_IS_FIGURE)


def _cells(row: Row) -> list[str]:
    return [row.title, row.split, "yes" if row.labels_given else "no", *_figures(row), row.note]
