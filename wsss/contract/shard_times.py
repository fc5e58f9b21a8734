"""How long workers took for the shards of one instance: noted by every worker, read once by the driver.

Every process appends to its own file in the instance's folder, so no locks are needed, and the notes of a run that was
stopped are still there when it resumes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = "shard_times"


@dataclass(frozen=True, kw_only=True)
class ShardTimes:
    """The times that the workers of one instance noted."""

    seconds: Mapping[str, float]
    """Shard -> seconds that a worker spent on it, without the time for loading before its first shard."""
    first: frozenset[str]
    """Shards that were a worker's first: their seconds include imports and compilation on first use."""
    workers: int
    """Processes that finished a shard."""
    measured: tuple[Mapping[str, float], ...] = ()
    """What workers measured of their shards, `ShardMeasures.noted`; with the shard's `seconds`."""


def note_seconds(folder: Path, shard: str, seconds: float, measured: Mapping[str, float] | None = None) -> None:
    """Note, in the folder of an instance, how long one shard took this process and what else it measured."""
    path = folder / FOLDER / f"{socket.gethostname()}-{os.getpid()}.jsonl"
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps([shard, seconds, dict(measured or {})]) + "\n")
    except OSError:  # only `wsss plan` uses these times, so the work continues without them
        return


def read_times(folder: Path) -> ShardTimes:
    """The noted times; for a shard that was worked on twice, one of the two. Half-written lines are skipped."""
    found: dict[str, float] = {}
    measured: dict[str, dict[str, float]] = {}
    first: set[str] = set()
    paths = sorted((folder / FOLDER).glob("*.jsonl"))
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines()):
            try:
                shard, seconds, *rest = json.loads(line)
            except ValueError:
                continue
            found[str(shard)] = float(seconds)
            measured[str(shard)] = {"seconds": float(seconds), **rest[0]} if rest and rest[0] else {}
            if number == 0:
                first.add(str(shard))
    return ShardTimes(
        seconds=found,
        first=frozenset(first),
        workers=len(paths),
        measured=tuple(one for one in measured.values() if one),
    )


def remove_times(folder: Path) -> None:
    """Remove the notes, after they have been copied to the run record."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
