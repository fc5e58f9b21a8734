"""The curve of a training: one line of JSON per point, in a file of the instance's folder.

Rank 0 appends to it while it trains, and whoever shows the curve reads it from any node. A training that resumes from a
checkpoint removes the points after it, and computes them again: point number n of the file is always the same point.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.files import write_bytes

CURVE = "curve.jsonl"
SYSTEM = "system-*.jsonl"
"""Files with the same lines about the machines of the ranks, one per node."""


@dataclass(frozen=True)
class Point:
    """What was measured at one step."""

    step: int
    time: float
    """Unix time in seconds."""
    values: Mapping[str, float]


def append_point(path: Path, *, step: int, values: Mapping[str, float]) -> None:
    """Append a point. If it cannot be written the training continues; saving the next checkpoint reports the error."""
    finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    line = json.dumps(asdict(Point(step, round(time.time(), 3), finite)))
    with suppress(OSError), path.open("a") as file:
        file.write(f"{line}\n")


def read_points(path: Path, *, first: int = 0) -> list[Point]:
    """The points from number `first` on. A line that is still being written is left out."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except OSError:
        return []
    return list(_parsed(lines[first:]))


def remove_points_after(path: Path, *, step: int) -> None:
    """Remove the points of later steps: a training resumes from this one."""
    kept = [json.dumps(asdict(point)) for point in read_points(path) if point.step <= step]
    if path.exists():
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())


def curve_files(folder: Path) -> list[Path]:
    """The curve of a training and what was measured on its machines, in the instance's folder."""
    return [path for pattern in (CURVE, SYSTEM) for path in sorted(folder.glob(pattern))]


def _parsed(lines: list[str]) -> Iterator[Point]:
    for line in lines:
        if not line.endswith("\n"):
            return
        try:
            yield Point(**json.loads(line))
        except (ValueError, TypeError):  # a machine that lost power leaves zeros
            return
