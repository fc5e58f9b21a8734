"""The table at the end of a run: one row per `evaluate` instance and split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from shards.records import RunRecord
from shards.wording import counted
from wsss.contract.folds import cautions_of
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe
from wsss.report.tables import Cell, Column, Page, Shown, Table, percent, table_of
from wsss.stages.evaluate import Evaluate
from wsss.stages.train_classifier import TrainClassifier

_SHOWN_CLASSES = 20
_SUBSET_OF = "subset of "
"""Start of `Row.kind` for subsets of a prediction's views."""
_SIZES = ("s", "ms", "ml", "l")
"""Sizes of objects in the metrics of evaluate.protocol = "imagenet_s"."""
_DECIDED = 0.5
"""The probability threshold of F1."""
SUBSETS = {"none": "one view", "flip": "one scale, mirrored too", "scales": "all scales", "all": "all views"}
"""Subset of a prediction's views -> its name in the table."""


@dataclass(frozen=True)
class Row:
    """One line of the table. Fractions are in [0, 1]; None if a value does not apply."""

    title: str
    split: str
    labels_given: bool
    mean_iou: float | None = None
    mean_iou_interval: tuple[float, float] | None = None
    """The 95 % bootstrap interval over images of the mean IoU."""
    mean_iou_all_classes: float | None = None
    """The mean IoU with absent classes counted as 0."""
    mean_iou_foreground: float | None = None
    """The mean IoU without the background."""
    mean_accuracy: float | None = None
    pixel_accuracy: float | None = None
    note: str = ""
    kind: str = ""
    """Kind of the stage that was measured."""
    labels: str = ""
    """Fingerprint of the pseudo labels that were measured, or that the measured segmenter was trained on."""
    images: str = ""
    """Which images of the split were measured; "" for all."""


def result_rows(recipe: Recipe, records: dict[str, RunRecord]) -> list[Row]:
    """Rows of all finished evaluations, in the recipe's order."""
    rows: list[Row] = []
    for instance in recipe.instances:
        record, stage = records.get(instance.name), instance.stage
        if record is None or not isinstance(stage, Evaluate):
            continue
        for split in stage.splits:
            measured, title = instance.inputs["records"], stage.title or instance.name
            row = _row(title, split, record.metrics, kind=measured.stage.kind)
            rows.append(replace(row, labels=_labels_behind(measured), images=_images(stage, split, record.metrics)))
            rows += _subset_rows(title, split, record.metrics)
    return _with_losses(_with_shares(rows))


def _images(stage: Evaluate, split: str, metrics: dict[str, float]) -> str:
    """Which images of a split an evaluation measured; "" for all."""
    return f"{stage.list_use} {stage.image_list}" if metrics.get(f"{split}.excluded") else ""


def _labels_behind(measured: Instance) -> str:
    if (segmenter := measured.inputs.get("segmenter")) is not None and measured.stage.kind == "predict":
        measured = segmenter.inputs.get("pseudo_labels", segmenter)
    return measured.fingerprint if measured.stage.kind == "make_pseudo_labels" else ""


def _row(title: str, split: str, metrics: dict[str, float], *, kind: str) -> Row:
    def of_split(name: str) -> float | None:
        return metrics.get(f"{split}.{name}")

    notes = []
    if of_split("images") == 0:
        notes.append(f"not measured: no mask for {counted(of_split('unmasked') or 0, 'image')}")
    if unknown := of_split("unknown"):
        notes.append(f"{counted(unknown, 'image')} not measured: unknown classes")
    if (coverage := of_split("coverage")) is not None:
        notes.append(f"{coverage:.1%} of the pixels are seeds, {of_split('precision') or 0:.1%} of them correct")
    if (threshold := of_split("threshold_a")) is not None:
        notes.append(f"thresholds {threshold:.3f} and {of_split('threshold_b') or 0:.3f}, two-fold")
    if (instances := of_split("instances_per_image")) is not None:
        notes.append(f"{instances:.1f} instances per image")
    if (boundary := of_split("boundary_iou")) is not None:
        notes.append(f"boundary IoU {_percent(boundary)}")
    if of_split("imagenet_s.mean_iou") is not None:
        sizes = {size.upper(): of_split(f"imagenet_s.mean_iou_{size}") for size in _SIZES}
        shown = [f"{size} {_percent(value)}" for size, value in sizes.items() if value is not None]
        shown.append(f"boundary IoU {_percent(of_split('imagenet_s.boundary_iou'))}")
        notes.append(f"by ImageNet-S: {', '.join(shown)}")
    if skipped := of_split("skipped_classes"):
        notes.append(
            f"{skipped:.0f} classes never predicted (mean IoU over the classes of the ground truth "
            f"{_percent(of_split('mean_iou_present'))})"
        )
    if absent := of_split("absent_classes"):
        notes.append("1 class absent" if absent == 1 else f"{absent:.0f} classes absent")
    if missing := of_split("missing"):
        notes.append(f"{counted(missing, 'image')} missing")
    if excluded := of_split("excluded"):
        notes.append(f"{counted(excluded, 'image')} excluded by image_list")
    if left_out := of_split("left_out"):
        notes.append(f"{counted(left_out, 'image')} excluded by settings")
    low, high = of_split("mean_iou_low"), of_split("mean_iou_high")
    return Row(
        title=title,
        split=split,
        labels_given=bool(metrics["labels_given"]),
        mean_iou=of_split("mean_iou"),
        mean_iou_interval=None if low is None or high is None else (low, high),
        mean_iou_all_classes=of_split("mean_iou_all_classes"),
        mean_iou_foreground=of_split("mean_iou_foreground"),
        mean_accuracy=of_split("mean_accuracy"),
        pixel_accuracy=of_split("pixel_accuracy"),
        note="; ".join(notes),
        kind=kind,
    )


def _subset_rows(title: str, split: str, metrics: dict[str, float]) -> list[Row]:
    """Rows for subsets of a prediction's views; each is compared with the first of them only."""
    found = [(words, metrics.get(f"{split}.mean_iou.{name}")) for name, words in SUBSETS.items()]
    given, kind = bool(metrics["labels_given"]), f"{_SUBSET_OF}{title}"
    return [
        Row(title=f"{title}, {words}", split=split, labels_given=given, mean_iou=mean_iou, kind=kind)
        for words, mean_iou in found
        if mean_iou is not None
    ]


def _with_shares(rows: Sequence[Row]) -> list[Row]:
    """Note for each segmentation its mean IoU as a percentage of its pseudo labels' mean IoU, on the same split."""
    found = [r for r in rows if r.kind == "make_pseudo_labels" and r.mean_iou]
    labels = {(r.labels, r.split, r.images): r.mean_iou for r in found}
    shared = []
    for row in rows:
        pseudo = labels.get((row.labels, row.split, row.images))
        if row.kind == "predict" and row.mean_iou is not None and pseudo is not None:
            share = f"{row.mean_iou / pseudo:.0%} of the pseudo labels' mean IoU"
            row = replace(row, note="; ".join(filter(None, [share, row.note])))
        shared.append(row)
    return shared


def _with_losses(rows: Sequence[Row]) -> list[Row]:
    """Note where a variant (more views, stochastic maps) is worse than the first of its kind, on the same images."""
    compared = []
    for row in rows:
        first = next(r for r in rows if (r.kind, r.split, r.images) == (row.kind, row.split, row.images))
        if row.mean_iou is not None and first.mean_iou is not None and row.mean_iou < first.mean_iou:
            baseline = first.title.removeprefix(f"{row.kind.removeprefix(_SUBSET_OF)}, ")
            loss = f"{_percent(first.mean_iou - row.mean_iou)} points worse than {baseline}"
            row = replace(row, note="; ".join(filter(None, [row.note, loss])))
        compared.append(row)
    return compared


def classifier_table(recipe: Recipe, records: dict[str, RunRecord]) -> Table | None:
    """A row per validated classifier: its scores, and per-class F1 if there are few classes; or None."""
    validated: list[tuple[Instance, RunRecord, dict[str, float | None]]] = []
    for instance in recipe.instances:
        record = records.get(instance.name)
        if record is None or not isinstance(instance.stage, TrainClassifier) or "val.f1_macro" not in record.metrics:
            continue
        f1 = {str(row["class"]): cast(float | None, row["f1"]) for row in record.tables["per_class"]}
        validated.append((instance, record, f1))
    if not validated:
        return None
    # Classifiers of one recipe may have different class lists.
    classes = list(dict.fromkeys(name for instance, _, _ in validated for name in instance.taxonomy.names))
    of_classes = classes if len(classes) <= _SHOWN_CLASSES else []
    rows: list[list[Cell]] = [
        [
            instance.name,
            *(percent(record.metrics[f"val.{name}"]) for name in ("mean_average_precision", "f1_macro", "f1_micro")),
            *(percent(f1.get(name)) for name in of_classes),
        ]
        for instance, record, f1 in validated
    ]
    notes = [_low_probabilities(record.tables["per_class"]) for _, record, _ in validated]
    if any(notes):
        rows = [[*row, note] for row, note in zip(rows, notes, strict=True)]
    columns = [
        Column("classifier", "classifier", role="name"),
        Column("mean AP", "mean_average_precision", right=True),
        Column("F1 macro", "f1_macro", right=True),
        Column("F1 micro", "f1_micro", right=True),
        *(Column(f"F1 {name}", f"f1.{name}", right=True) for name in of_classes),
        *([Column("", "note", role="note")] if any(notes) else []),
    ]
    return table_of(f"{recipe.settings.name}: classifiers, at probability 0.5", columns, rows)


def _low_probabilities(per_class: Sequence[Mapping[str, object]]) -> str:
    """A note if F1 is 0 because no probability is above the threshold."""
    shown = [row for row in per_class if row.get("images") and "highest_probability" in row]
    low = [row for row in shown if cast(float, row["highest_probability"]) <= _DECIDED]
    if not low:
        return ""
    highest = max(cast(float, row["highest_probability"]) for row in low)
    if len(low) == len(shown):
        return f"no probability reaches {_DECIDED} (highest {highest:.2f}), hence F1 = 0; mean AP needs no threshold"
    named = ", ".join(str(row["class"]) for row in low[:3]) + (", ..." if len(low) > 3 else "")
    return f"{len(low)} of {len(shown)} classes never reach {_DECIDED}, hence their F1 = 0: {named}"


_COLUMNS = (
    Column("step", "step", role="name", wraps=True),
    Column("images", "split", role="name"),
    Column("labels given", "labels_given"),
    Column("mean IoU", "mean_iou", right=True),
    Column("", "mean_iou_low", role="data"),
    Column("", "mean_iou_high", role="data"),
    Column("absent as 0", "mean_iou_all_classes", right=True),
    Column("no backgr.", "mean_iou_foreground", right=True),
    Column("mean acc.", "mean_accuracy", right=True),
    Column("pixel acc.", "pixel_accuracy", right=True),
    Column("", "note", role="note"),
)


def cautions_behind(recipe: Recipe, records: Mapping[str, RunRecord]) -> tuple[str, ...]:
    """The cautions of all finished instances, in the recipe's order."""
    done = [instance for instance in recipe.instances if instance.name in records]
    return tuple(line for instance in done for line in cautions_of(instance))


def results_table(rows: Iterable[Row], *, title: str, notes: tuple[str, ...] = ()) -> Table:
    """The evaluations' rows as a table, and lines below it."""
    cells = [
        (
            row.title,
            row.split,
            row.labels_given,
            _mean_iou(row),
            *(row.mean_iou_interval or (None, None)),
            percent(row.mean_iou_all_classes),
            percent(row.mean_iou_foreground),
            percent(row.mean_accuracy),
            percent(row.pixel_accuracy),
            row.note,
        )
        for row in rows
    ]
    return table_of(title, _COLUMNS, cells, notes=notes)


def results_page(recipe: Recipe) -> Page:
    """The finished evaluations and classifiers of a recipe; nothing is run."""
    known = {i.name: record for i in recipe.instances if i.is_done() and (record := i.run_record()) is not None}
    rows = result_rows(recipe, known)
    waiting = [i.name for i in recipe.instances if isinstance(i.stage, Evaluate) and i.name not in known]
    heading = (
        (f"not measured yet: {', '.join(waiting)}; wsss run, with the same arguments, measures them",)
        if waiting
        else ()
    )
    if not recipe.runtime.runs.is_dir():
        heading = (*heading, f"there is no folder of runs {recipe.runtime.runs}")
    notes = cautions_behind(recipe, known) if rows else heading
    table = results_table(rows, title=recipe.settings.name, notes=notes)
    tables = {"results": replace(table, data_only=not rows)}
    if (classifiers := classifier_table(recipe, known)) is not None:
        tables = {"classifiers": classifiers, **tables}
    return Page(heading=heading, tables=tables, main="results")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _mean_iou(row: Row) -> Shown | None:
    if row.mean_iou is None or row.mean_iou_interval is None:
        return percent(row.mean_iou)
    low, high = row.mean_iou_interval
    return Shown(row.mean_iou, f"{_percent(row.mean_iou)} ({_percent(low)} to {_percent(high)})")
