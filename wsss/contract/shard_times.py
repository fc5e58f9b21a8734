"""How long workers were at work on the shards of one instance: noted by every worker, read once by the driver.

Every process appends to a file of its own in the instance's folder, so nothing is locked, and what a run that was
stopped has noted is there when it resumes.
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
    """What the workers of one instance noted."""

    seconds: Mapping[str, float]
    """Shard -> seconds that a worker spent on it, without what it loads before its first one."""
    first: frozenset[str]
    """Shards that were some worker's first: what is imported or compiled on first use is in their seconds."""
    workers: int
    """Processes that finished a shard."""


def note_seconds(folder: Path, shard: str, seconds: float) -> None:
    """Note, in the folder of an instance, how long one shard took this process."""
    path = folder / FOLDER / f"{socket.gethostname()}-{os.getpid()}.jsonl"
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps([shard, seconds]) + "\n")
    except OSError:  # only a plan would read it: no reason to stop the work
        return


def read_times(folder: Path) -> ShardTimes:
    """What was noted; of a shard that was worked on twice, one of them. Half-written lines are passed over."""
    found: dict[str, float] = {}
    first: set[str] = set()
    paths = sorted((folder / FOLDER).glob("*.jsonl"))
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines()):
            try:
                shard, seconds = json.loads(line)
            except ValueError:
                continue
            found[str(shard)] = float(seconds)
            if number == 0:
                first.add(str(shard))
    return ShardTimes(seconds=found, first=frozenset(first), workers=len(paths))


def remove_times(folder: Path) -> None:
    """Remove the notes, once they are in the run record."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
