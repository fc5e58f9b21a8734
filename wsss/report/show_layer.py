"""`wsss shards info|lint|preview`: the contents of a layer, its faults, and a preview picture."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from shards.files import write_bytes
from shards.lint import lint
from shards.mask_check import MaskCheck, mismatch_lines
from shards.opened import OpenedLayer
from shards.preview import preview
from shards.records import Sample
from shards.summary import LayerSummary, lines, summarise
from shards.wording import counted
from wsss.pictures.plots import draw_layer
from wsss.pipeline.progress import PLAIN_INTERVAL
from wsss.report.tables import Cell, Column, Page, Table, table_of


class Line(NamedTuple):
    """A line to print."""

    text: str
    is_fault: bool = False


def info(opened: OpenedLayer, *, pictures: Path | None) -> tuple[Page, Path | None]:
    """The contents of a layer, and the path of its picture if `pictures` names a folder."""
    summary = summarise(opened)
    tables = {"splits": _splits(summary)}
    heading = list(lines(summary))
    if summary.kind == Sample.kind:
        tables["classes"] = _classes(summary)
        heading += _class_lines(summary)
    page = Page(heading=tuple(heading), tables=tables)
    if pictures is None:
        return page, None
    return page, _written(pictures, f"{opened.name}.info.png", draw_layer(summary, title=opened.name))


def _splits(summary: LayerSummary) -> Table:
    """A row per split, for CSV and JSON only: the terminal shows the same information in the lines above."""
    is_samples = summary.kind == Sample.kind
    columns = (
        Column("layer", "layer", role="data"),
        Column("record", "record", role="data"),
        Column("split", "split", role="name"),
        *(
            Column(name.replace("_", " "), name, right=True)
            for name in ("records", "shards", "num_bytes", "missing", "left_out", "masks")
        ),
        Column("masks that lack a labelled class", "masks_lacking", right=True),
        Column("masks that show an unlabelled class", "masks_unlabelled", right=True),
    )
    rows = [
        (
            summary.name,
            summary.kind,
            split,
            *(count[name] for name in ("records", "shards", "num_bytes", "missing", "left_out")),
            *(_mask_counts(summary, split) if is_samples else (None, None, None)),
        )
        for split, count in summary.splits.items()
    ]
    return table_of("", columns, rows, data_only=True)


def _mask_counts(summary: LayerSummary, split: str) -> tuple[Cell, ...]:
    """Number of masks, and how many of those compared with the labels disagree."""
    check = summary.checks.get(split, MaskCheck())
    return summary.splits[split]["masks"], check.lacking, check.unlabelled


def _class_lines(summary: LayerSummary) -> Iterator[str]:
    """A line per class: images that show it, how many in each of several splits, absent and unknown, its name."""
    splits = summary.present_in if len(summary.present_in) > 1 else {}
    for class_id in summary.classes():
        details = [f"{split} {count[class_id]}" for split, count in splits.items()]
        if summary.unknown_is_kept:
            details += [f"{summary.absent(class_id)} absent", f"{summary.unknown[class_id]} unknown"]
        shown = f"class {class_id:3d}: {summary.present[class_id]:6d} images"
        shown += f" ({', '.join(details)})" if details else ""
        yield f"{shown} {summary.name_of(class_id)}" if summary.names else shown


def _classes(summary: LayerSummary) -> Table:
    """Number of images of each class: present, known to be absent, unknown; and present in each split."""
    splits = list(summary.present_in) if len(summary.present_in) > 1 else []
    columns = (
        Column("layer", "layer", role="data"),
        Column("class", "class_id", right=True, role="name"),
        Column("name", "name", role="name"),
        Column("present", "present", right=True),
        Column("absent", "absent", right=True),
        Column("unknown", "unknown", right=True),
        *(Column(f"in {split}", f"in_{split}", right=True) for split in splits),
    )
    rows: list[tuple[Cell, ...]] = []
    for class_id in summary.classes():
        present, known = summary.present[class_id], summary.unknown_is_kept
        absent, unknown = (summary.absent(class_id), summary.unknown[class_id]) if known else (None, None)
        name = summary.name_of(class_id) if summary.names else None
        of_splits = [summary.present_in[split][class_id] for split in splits]
        rows.append((summary.name, class_id, name, present, absent, unknown, *of_splits))
    return table_of("", columns, rows, data_only=True)


def look(opened: OpenedLayer, action: str, *, pictures: Path | None, console: Console) -> Iterator[Line]:
    """The lines of `preview` and `lint`. Picture files are named after the layer; progress is shown on `console`."""
    if action == "preview":
        yield Line(str(_written(pictures, f"{opened.name}.preview.png", preview(opened))))
    else:
        yield from _lint(opened, console)


def _written(folder: Path | None, name: str, data: bytes) -> Path:
    path = (folder or Path()) / name
    write_bytes(path, data)
    return path


def _lint(opened: OpenedLayer, console: Console) -> Iterator[Line]:
    # Shards that are read only once must not evict the shards of a training from the cache.
    remote = opened.layer.remote
    if remote is not None:
        layer = dataclasses.replace(opened.layer, remote=dataclasses.replace(remote, cache=None))
        opened = dataclasses.replace(opened, layer=layer)
    faults = 0
    checks: dict[str, MaskCheck] = {}
    with ExitStack() as stack:
        progress = _LintProgress(opened.name, console, stack)
        for text in lint(opened, progress=progress, checks=checks):
            faults += 1
            yield Line(text, is_fault=True)
    yield from (Line(text) for text in mismatch_lines(checks))
    yield Line(f"{opened.display_name}: " + (counted(faults, "fault") if faults else "no fault found"))


class _LintProgress:
    """A bar on a terminal, a line every `PLAIN_INTERVAL` seconds elsewhere."""

    def __init__(self, name: str, console: Console, stack: ExitStack) -> None:
        self._name, self._console, self._last = name, console, time.monotonic()
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
            self._bars = stack.enter_context(Progress(*columns, console=console, transient=True))
            self._bar = self._bars.add_task(name, total=None)

    def __call__(self, done: int, total: int) -> None:
        if self._bars is not None:
            self._bars.update(self._bar, completed=done, total=total)
        elif time.monotonic() - self._last > PLAIN_INTERVAL:
            self._last = time.monotonic()
            self._console.print(Text(f"{self._name}: {done} of {total} shards read"))
