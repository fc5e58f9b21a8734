"""The work on one shard, the same for every runtime: in this process or in a Ray actor."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cluster.crash_files import crash_files
from shards.at_work import note
from shards.writer import write_shard
from wsss.contract.counts import Counts
from wsss.contract.device import choose_device, computed_on
from wsss.contract.shard_times import note_seconds
from wsss.contract.stage import Instance, Map, Reduce, ShardCounter, ShardWorker


class StuckError(RuntimeError):
    """Work on one shard took longer than `runtime.shard_seconds` allows."""


class ShardExecutor:
    """Works on shards of one instance after another; what an instance needs is loaded once."""

    def __init__(
        self, *, threads: int, gpu: bool = False, shard_seconds: float = 0.0, own_process: bool = False
    ) -> None:
        """`own_process`: this process is an actor, which whoever gave it the work ends and replaces where it is stuck.

        Elsewhere work that exceeds `shard_seconds` is interrupted by `StuckError`.
        """
        self._threads, self._gpu, self._has_torch = threads, gpu, False
        self._shard_seconds, self._own_process = shard_seconds, own_process
        if gpu:
            self._prepare_torch()  # where there is none, the actor must not start
        # A tensor made from a read-only array is never written to here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self._instance: Instance | None = None
        self._worker: ShardWorker | ShardCounter | None = None

    def make_shard(self, instance: Instance, shard: str) -> None:
        """Make one shard of a `Map` instance's layer."""
        assert isinstance(instance.stage, Map)
        with self._at_work(instance, shard):
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
        with self._at_work(instance, shard):
            if not self._is_ready(instance):
                self._prepare_torch()
                self._worker = instance.stage.counter(instance)
            begun = time.monotonic()
            counts: Counts = self._worker(shard)  # type: ignore[misc, assignment]
            note_seconds(instance.path, shard, time.monotonic() - begun)
        return counts

    @contextmanager
    def _at_work(self, instance: Instance, shard: str) -> Iterator[None]:
        """Leave word of what is worked on: in a file, should this process die, and in what the block raises."""
        seconds = self._shard_seconds
        with crash_files(instance.path, own_process=self._own_process, seconds=seconds):
            note(shard=shard)
            try:
                with _interrupted_after(0.0 if self._own_process else seconds):
                    yield
            except Exception:
                self._instance = None  # its worker may not be there, or be half done
                raise

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


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `StuckError` inside the block once it has taken so many seconds; 0 never does."""
    if not seconds:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("runtime.shard_seconds needs the main thread here; set it to 0, or run with --on ray")

    def stop(number: int, frame: FrameType | None) -> None:
        raise StuckError(
            f"the work on one shard takes longer than runtime.shard_seconds = {seconds:g}; raise it, or run with "
            "--on ray, which ends the worker and tries the shard again"
        )

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pending_shards(instance: Instance, stage: Map) -> tuple[list[str], int]:
    """The shards that are still to be made, and how many there are in all; called once, before any worker starts."""
    stage.prepare(instance)
    shards = stage.shards(instance)
    return [shard for shard in shards if not instance.layer.is_finished(shard)], len(shards)
