"""`wsss shards info|lint|preview`: what a layer holds, whether it is sound, and what it looks like."""

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
from shards.summary import lines, summarise
from wsss.pictures.plots import draw_layer
from wsss.pipeline.progress import PLAIN_INTERVAL


class Line(NamedTuple):
    """A line to print."""

    text: str
    is_fault: bool = False


def look(opened: OpenedLayer, action: str, *, pictures: Path | None, console: Console) -> Iterator[Line]:
    """The lines of one action. Pictures are called after the layer; progress is told on `console`."""
    if action == "preview":
        yield _written(pictures, f"{opened.name}.preview.png", preview(opened))
    elif action == "info":
        summary = summarise(opened)
        yield from (Line(text) for text in lines(summary))
        if pictures is not None:
            yield _written(pictures, f"{opened.name}.info.png", draw_layer(summary, title=opened.name))
    else:
        yield from _lint(opened, console)


def _written(folder: Path | None, name: str, data: bytes) -> Line:
    path = (folder or Path()) / name
    write_bytes(path, data)
    return Line(str(path))


def _lint(opened: OpenedLayer, console: Console) -> Iterator[Line]:
    # What is read once must not push what a training reads out of the cache.
    remote = opened.layer.remote
    if remote is not None:
        layer = dataclasses.replace(opened.layer, remote=dataclasses.replace(remote, cache=None))
        opened = dataclasses.replace(opened, layer=layer)
    faults = 0
    checks: dict[str, MaskCheck] = {}
    with ExitStack() as stack:
        told = _Told(opened.name, console, stack)
        for text in lint(opened, progress=told, checks=checks):
            faults += 1
            yield Line(text, is_fault=True)
    yield from (Line(text) for text in mismatch_lines(checks))
    yield Line(f"{opened.told}: " + (f"{faults} faults" if faults else "no fault found"))


class _Told:
    """A bar on a terminal, a line now and then elsewhere."""

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
