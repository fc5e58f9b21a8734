"""The work on one shard, the same for every runtime: in this process or in a Ray actor."""

from __future__ import annotations

import time
import warnings

from shards.writer import write_shard
from wsss.contract.counts import Counts
from wsss.contract.device import choose_device, computed_on
from wsss.contract.shard_times import note_seconds
from wsss.contract.stage import Instance, Map, Reduce, ShardCounter, ShardWorker


class ShardBench:
    """Works on shards of one instance after another; what an instance needs is loaded once."""

    def __init__(self, *, threads: int, gpu: bool = False) -> None:
        self._threads, self._gpu, self._has_torch = threads, gpu, False
        if gpu:
            self._prepare_torch()  # where there is none, the actor must not start
        # A tensor made from a read-only array is never written to here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self._instance: Instance | None = None
        self._worker: ShardWorker | ShardCounter | None = None

    def make_shard(self, instance: Instance, shard: str) -> None:
        """Make one shard of a `Map` instance's layer."""
        assert isinstance(instance.stage, Map)
        if instance.stage.take(instance, shard):
            return
        if not self._is_ready(instance):
            if instance.stage.uses_torch:
                self._prepare_torch()
            self._worker = instance.stage.worker(instance)
        made_on = computed_on() if instance.stage.uses_torch else ""
        begun = time.monotonic()
        write_shard(instance.layer, shard, self._worker(shard), made_on=made_on)  # type: ignore[misc, arg-type]
        note_seconds(instance.path, shard, time.monotonic() - begun)

    def count_shard(self, instance: Instance, shard: str) -> Counts:
        """The counts of one shard for a `Reduce` instance."""
        assert isinstance(instance.stage, Reduce)
        if not self._is_ready(instance):
            self._prepare_torch()
            self._worker = instance.stage.counter(instance)
        begun = time.monotonic()
        counts: Counts = self._worker(shard)  # type: ignore[misc, assignment]
        note_seconds(instance.path, shard, time.monotonic() - begun)
        return counts

    def _prepare_torch(self) -> None:
        """Device and threads, once; torch takes seconds and 300 MB, which actors that only build shards are spared."""
        if self._has_torch:
            return
        import torch

        choose_device(gpu=self._gpu)
        # Equal bytes need equal threads: sums of floats are grouped by thread.
        torch.set_num_threads(self._threads)
        self._has_torch = True

    def _is_ready(self, instance: Instance) -> bool:
        ready = self._instance is not None and self._instance.path == instance.path
        self._instance = instance
        return ready


def pending_shards(instance: Instance, stage: Map) -> tuple[list[str], int]:
    """The shards that are still to be made, and how many there are in all; called once, before any worker starts."""
    stage.prepare(instance)
    shards = stage.shards(instance)
    return [shard for shard in shards if not instance.layer.is_finished(shard)], len(shards)
