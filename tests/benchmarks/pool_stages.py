"""The stages of the benchmark of the pool; in a module of their own because actors import it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from shards.records import Missing, Record, SeedRecord
from wsss.contract.settings import settings
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.make_cams import MakeCams

MARKS = "marks"


def mark(instance: Instance, shard: str, what: str) -> None:
    """Note the time (`time.monotonic`, the same clock for all processes of a machine) in a file of this process."""
    folder = instance.path / MARKS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps([what, shard, time.monotonic()]) + "\n")


def read_marks(folder: Path) -> dict[int, list[tuple[str, str, float]]]:
    """Process -> its marks (what, shard, time), in order."""
    return {
        int(path.stem): [tuple(json.loads(line)) for line in path.read_text().splitlines()]
        for path in (folder / MARKS).glob("*.jsonl")
    }


@settings
class Sleeping(Map):
    """Records of one pixel, each after a pause."""

    kind: ClassVar[str] = "sleeping"
    record_kind: ClassVar[str] = SeedRecord.kind
    uses_torch: ClassVar[bool] = False
    num_shards: int = 1
    per_shard: int = 64
    pause: float = 0.05

    def shards(self, instance: Instance) -> list[str]:
        return [f"train-{number:06d}" for number in range(self.num_shards)]

    def worker(self, instance: Instance) -> ShardWorker:
        def work(shard: str) -> Iterator[Record | Missing]:
            for number in range(self.per_shard):
                time.sleep(self.pause)
                yield SeedRecord(key=f"{shard}-{number}", label=np.zeros((1, 1), np.uint8))

        return work


@settings
class MarkedSleep(Sleeping):
    """Notes when work on a shard begins."""

    kind: ClassVar[str] = "marked_sleep"

    def take(self, instance: Instance, shard: str) -> bool:
        mark(instance, shard, "begun")
        return super().take(instance, shard)


@settings
class MarkedCams(MakeCams):
    """make_cams, which notes when work on a shard begins, and when its last record is made."""

    kind: ClassVar[str] = "marked_cams"

    def take(self, instance: Instance, shard: str) -> bool:
        mark(instance, shard, "begun")
        return super().take(instance, shard)

    def worker(self, instance: Instance) -> ShardWorker:
        make = super().worker(instance)

        def work(shard: str) -> Iterator[Record | Missing]:
            yield from make(shard)
            mark(instance, shard, "made")

        return work
