"""Compares two evaluations class by class from the tables that MLflow holds; no label maps are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.tracking.undelivered import undelivered
from shards.wording import counted
from tuning.leaderboard import METRICS, Row, leaderboard, recorded_table
from tuning.named_results import CompareError, choose_row, unknown_name
from wsss.report.tables import Cell, Column, Table, percent, table_of

PER_CLASS = "per_class"
"""The table that `evaluate` records: class, class_id, iou, recall, precision and, for label maps, boundary_iou."""


@dataclass(frozen=True, kw_only=True)
class ClassDifference:
    """IoU of one class on both sides; None if the class occurs in neither prediction nor ground truth."""

    name: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """b - a, or None if a side has no IoU."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two evaluations, their classes by decreasing |difference|, and notes on ambiguous names."""

    a: Row
    b: Row
    classes: tuple[ClassDifference, ...]
    notes: tuple[str, ...]


def compare(a: str, b: str, *, runs: Path, uri: str = "") -> Comparison:
    """Compare two evaluations, each named by run id (or its beginning), `RECIPE` or `RECIPE:INSTANCE`.

    If a name fits several evaluations, the latest one is used, of those without given labels if there are any; the
    comparison's notes say so. Raises `CompareError`, also for results over different images.
    """
    rows = leaderboard(runs, uri=uri, everything=True)
    notes: list[str] = []
    first, second = (_choose(name, rows, notes, runs=runs, uri=uri) for name in (a, b))
    notes += undelivered(runs, uri=uri)
    if first.run_id == second.run_id:
        raise CompareError(f"{a} and {b} are the same evaluation ({first.name}, run {first.run_id[:8]})")
    _refuse_different_images(first, second)
    classes = _differences(*(_ious(row, runs=runs, uri=uri) for row in (first, second)))
    return Comparison(a=first, b=second, classes=classes, notes=tuple(notes))


def _refuse_different_images(first: Row, second: Row) -> None:
    counts = {row.num_images for row in (first, second)} - {None}
    if first.image_set != second.image_set or len(counts) > 1:
        raise CompareError(
            f"the results are over different images: {_label(first)} over {_images(first)}, {_label(second)} over "
            f"{_images(second)}; compare evaluations of the same images"
        )


def _images(row: Row) -> str:
    return row.image_set if row.num_images is None else f"{counted(row.num_images, 'image')} of {row.image_set}"


def comparison_table(comparison: Comparison) -> Table:
    """The comparison as a table: the overall numbers, then the classes; in percent and percentage points."""
    a, b = comparison.a, comparison.b
    columns = (
        Column("class", "name", role="name", wraps=True),
        Column("", "of", role="data"),
        Column("A", "a", right=True),
        Column("B", "b", right=True),
        Column("B - A", "difference", right=True),
    )
    overall = [
        ClassDifference(name=title, a=a.metrics.get(name), b=b.metrics.get(name))
        for name, title in METRICS.items()
        if name in {*a.metrics, *b.metrics}
    ]
    rows = [_cells(one, of="all classes") for one in overall]
    rows += [_cells(one, of="class") for one in comparison.classes]
    title = f"A {_label(a)}  against  B {_label(b)}"
    return table_of(title, columns, rows, notes=comparison.notes, sections=frozenset({len(overall)}))


def _label(row: Row) -> str:
    return f"{row.name} ({row.run_id[:8]})"


def _cells(one: ClassDifference, *, of: str) -> tuple[Cell, ...]:
    difference = percent(one.difference, digits=2, sign="+")
    return (one.name, of, percent(one.a, digits=2), percent(one.b, digits=2), difference)


def _choose(name: str, rows: list[Row], notes: list[str], *, runs: Path, uri: str) -> Row:
    """The row that a name means; adds a note if it fits several."""
    if (row := choose_row(name, rows, notes)) is None:
        raise unknown_name(name, rows, runs=runs, uri=uri)
    return row


def _ious(row: Row, *, runs: Path, uri: str) -> dict[str, float | None]:
    table: list[dict[str, Any]] | None = recorded_table(row.run_id, PER_CLASS, runs=runs, uri=uri)
    if table is None:
        raise CompareError(f"{_label(row)} has no table {PER_CLASS!r} in MLflow; run its evaluation again")
    return {line["class"]: line["iou"] for line in table}


def _differences(a: dict[str, float | None], b: dict[str, float | None]) -> tuple[ClassDifference, ...]:
    if not a.keys() & b.keys():
        raise CompareError(f"the two have no class in common: {_some(a)} against {_some(b)}")
    both = [ClassDifference(name=name, a=a.get(name), b=b.get(name)) for name in dict.fromkeys([*a, *b])]
    return tuple(sorted(both, key=lambda one: -1.0 if one.difference is None else abs(one.difference), reverse=True))


def _some(classes: dict[str, float | None]) -> str:
    return ", ".join(list(classes)[:5])
