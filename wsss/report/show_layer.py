"""`wsss shards info|lint|preview`: what a layer holds, whether it is sound, and what it looks like."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from shards.files import write_bytes
from shards.lint import lint
from shards.opened import OpenedLayer
from shards.preview import preview
from shards.records import Sample
from shards.summary import LayerSummary, lines, summarise
from wsss.pictures.plots import draw_layer
from wsss.pipeline.progress import PLAIN_INTERVAL
from wsss.report.tables import Cell, Column, Page, Shown, Table, table_of

_BAR = 20
"""Characters of the longest bar."""


class Line(NamedTuple):
    """A line to print."""

    text: str
    is_fault: bool = False


def info(opened: OpenedLayer, *, pictures: Path | None) -> tuple[Page, Path | None]:
    """What a layer holds, and the picture of it where `pictures` names a folder."""
    summary = summarise(opened)
    tables = {"splits": _splits(summary)}
    if summary.kind == Sample.kind:
        tables["classes"] = _classes(summary)
    page = Page(heading=tuple(lines(summary)), tables=tables)
    if pictures is None:
        return page, None
    return page, _written(pictures, f"{opened.name}.info.png", draw_layer(summary, title=opened.name))


def _splits(summary: LayerSummary) -> Table:
    """A row per split, for CSV and JSON: people read the same in the lines above."""
    is_samples = summary.kind == Sample.kind
    columns = (
        Column("layer", "layer", role="data"),
        Column("record", "record", role="data"),
        Column("split", "split", role="name"),
        *(
            Column(name.replace("_", " "), name, right=True)
            for name in ("records", "shards", "num_bytes", "missing", "left_out", "masks")
        ),
    )
    rows = [
        (
            summary.name,
            summary.kind,
            split,
            *(count[name] for name in ("records", "shards", "num_bytes", "missing", "left_out")),
            count["masks"] if is_samples else None,
        )
        for split, count in summary.splits.items()
    ]
    return table_of("", columns, rows, data_only=True)


def _classes(summary: LayerSummary) -> Table:
    """Images of each class: present, known to be absent, unknown."""
    columns = (
        Column("layer", "layer", role="data"),
        Column("class", "class_id", right=True, role="name"),
        Column("name", "name", role="name", wraps=True),
        Column("present", "present", right=True),
        Column("absent", "absent", right=True),
        Column("unknown", "unknown", right=True),
        Column("", "bar", role="drawing"),
    )
    most = max(summary.present.values(), default=1) or 1
    rows: list[tuple[Cell, ...]] = []
    for class_id in summary.classes():
        present, known = summary.present[class_id], summary.unknown_is_kept
        absent, unknown = (summary.absent(class_id), summary.unknown[class_id]) if known else (None, None)
        name = summary.name_of(class_id) if summary.names else None
        bar = Shown(None, "#" * round(_BAR * present / most))
        rows.append((summary.name, class_id, name, present, absent, unknown, bar))
    return table_of("images of each class", columns, rows)


def look(opened: OpenedLayer, action: str, *, pictures: Path | None, console: Console) -> Iterator[Line]:
    """The lines of `preview` and `lint`. Pictures are called after the layer; progress is told on `console`."""
    if action == "preview":
        yield Line(str(_written(pictures, f"{opened.name}.preview.png", preview(opened))))
    else:
        yield from _lint(opened, console)


def _written(folder: Path | None, name: str, data: bytes) -> Path:
    path = (folder or Path()) / name
    write_bytes(path, data)
    return path


def _lint(opened: OpenedLayer, console: Console) -> Iterator[Line]:
    # What is read once must not push what a training reads out of the cache.
    remote = opened.layer.remote
    if remote is not None:
        layer = dataclasses.replace(opened.layer, remote=dataclasses.replace(remote, cache=None))
        opened = dataclasses.replace(opened, layer=layer)
    faults = 0
    with ExitStack() as stack:
        told = _Told(opened.name, console, stack)
        for text in lint(opened, progress=told):
            faults += 1
            yield Line(text, is_fault=True)
    yield Line(f"{opened.told}: " + (f"{faults} faults" if faults else "no fault found"))


class _Told:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, console: Console, stack: ExitStack) -> None:
        self._name, self._console, self._last = name, console, time.monotonic()
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = stack.enter_context(Progress(console=console, transient=True))
            self._bar = self._bars.add_task(name, total=None)

    def __call__(self, done: int, total: int) -> None:
        if self._bars is not None:
            self._bars.update(self._bar, completed=done, total=total)
        elif time.monotonic() - self._last > PLAIN_INTERVAL:
            self._last = time.monotonic()
            self._console.print(f"{self._name}: {done} of {total} shards read")
