"""The work on one shard, the same for every runtime: in this process or in a Ray actor."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import FrameType
from typing import Literal

from cluster.failures.crash_files import crash_files
from shards.file_system_errors import writing
from shards.files import sync_folder
from shards.layer import Layer
from shards.set_aside import setting_aside, with_set_aside
from shards.work_notes import note
from shards.writer import write_shard
from wsss.contract.counts import Counts
from wsss.contract.device import choose_device, computed_on, decoding_threads
from wsss.contract.folds import shard_worker
from wsss.contract.gpu_memory import free_gpu_memory, is_gpu_failure, is_out_of_gpu_memory, too_large
from wsss.contract.shard_measures import begin_measures
from wsss.contract.shard_times import note_seconds
from wsss.contract.stage import Instance, Map, Reduce, ShardCounter, ShardWorker

COPIES = ".copies"
BEHIND = 8
"""Records that may wait to be encoded and written, beside a GPU."""


class StuckError(RuntimeError):
    """Work on one shard took longer than `runtime.shard_seconds`."""


class ShardExecutor:
    """Works on shards, one instance after another; models and settings of an instance are loaded once."""

    def __init__(
        self,
        *,
        threads: int,
        gpus: float = 0.0,
        cpus: float = 1.0,
        shard_seconds: float = 0.0,
        own_process: bool = False,
    ) -> None:
        """`gpus`: how many this process holds, or its share of one. `cpus`: those that it holds: beside a GPU, threads
        on them decode and encode.

        `own_process`: this process is an actor, which its pool kills and replaces if it is stuck. Otherwise work that
        exceeds `shard_seconds` is interrupted by `StuckError`.
        """
        self._threads, self.gpus, self.cpus, self._has_torch = threads, gpus, cpus, False
        self._shard_seconds, self._own_process = shard_seconds, own_process
        if gpus:
            self._prepare_torch()  # raises if there is no GPU, so that the actor does not start
        # Tensors made from read-only arrays are never written to here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self._instance: Instance | None = None
        self._worker: ShardWorker | ShardCounter | None = None

    def make_shard(
        self,
        instance: Instance,
        shard: str,
        *,
        mode: Literal["final", "copy", "probe"] = "final",
        set_aside: Mapping[str, str] | None = None,
    ) -> None:
        """Make one shard of a `Map` instance's layer, without the records to `set_aside` (key -> reason).

        `copy`: into a folder of its own, from which `publish_copy` moves it. `probe`: one record at a time, for nothing
        but to see which one ends this process.
        """
        assert isinstance(instance.stage, Map)
        with self._at_work(instance, shard), setting_aside(set_aside or {}, alone=mode == "probe"):
            if instance.stage.take(instance, shard):
                return
            if not self._is_ready(instance):
                if instance.stage.uses_torch:
                    self._prepare_torch()
                self._worker = shard_worker(instance)
            made_on = computed_on() if instance.stage.uses_torch else ""
            begun, measured = time.monotonic(), begin_measures()
            layer = instance.layer if mode == "final" else _copies(instance, mode)
            behind = BEHIND if decoding_threads() and mode != "probe" else 0
            with closing(with_set_aside(self._worker(shard))) as records:  # type: ignore[misc, arg-type]
                write_shard(layer, shard, records, made_on=made_on, behind=behind, waiting=measured.writing)
            if mode != "probe":
                note_seconds(instance.path, shard, time.monotonic() - begun, measured.noted())

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
        """Record the current work: in a file, in case this process dies, and in exceptions that the block raises."""
        seconds = self._shard_seconds
        with crash_files(instance.path, own_process=self._own_process, seconds=seconds):
            note(shard=shard)
            try:
                with _interrupted_after(0.0 if self._own_process else seconds):
                    yield
            except Exception as error:
                self._instance = None  # its worker may be missing or incomplete
                if is_out_of_gpu_memory(error):
                    raise too_large(instance, error, what="image") from error
                if self._own_process and is_gpu_failure(error):
                    _end_process(error)
                raise

    def _prepare_torch(self) -> None:
        """Set device and threads, once. Actors that only build shards never import torch (seconds and 300 MB)."""
        if self._has_torch:
            return
        import torch

        choose_device(gpus=self.gpus, cpus=self.cpus)
        # Equal bytes need an equal number of threads, because sums of floats are grouped by thread.
        torch.set_num_threads(self._threads)
        self._has_torch = True

    def _is_ready(self, instance: Instance) -> bool:
        ready = self._instance is not None and self._instance.path == instance.path
        self._instance = instance
        if not ready and self._worker is not None:
            self._worker = None  # its network leaves the GPU before the next one is loaded
            free_gpu_memory()
        return ready


def _end_process(error: BaseException) -> None:
    """End this actor, so that its pool replaces it: after such an error CUDA refuses all further work of a process."""
    note(ended=f"its GPU failed: {type(error).__name__}: {error}".splitlines()[0])
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `StuckError` inside the block after this many seconds; 0 for never."""
    if not seconds:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("runtime.shard_seconds works only in the main thread; set it to 0, or run with --on ray")

    def stop(number: int, frame: FrameType | None) -> None:
        raise StuckError(
            f"the work on one shard takes longer than runtime.shard_seconds = {seconds:g}; raise it, or run with "
            "--on ray, which replaces the worker and tries the shard again"
        )

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _copies(instance: Instance, mode: str) -> Layer:
    """Where shards are written that do not count, or not yet."""
    return Layer(instance.path / COPIES / mode, instance.layer.kind)


def publish_copy(instance: Instance, shard: str) -> None:
    """Make the copy of a shard the shard itself. No other process may be writing it any more.

    A shard that is finished is kept as it is: tar and manifest entry must come from one process, since on GPUs two
    processes may differ in the last bits.
    """
    layer, copy = instance.layer, _copies(instance, "copy")
    if layer.is_finished(shard):
        return
    copy.manifest_entry(shard)  # raises if the copy is not complete
    with writing(layer.tar_path(shard), what=f"shard {shard}"):
        copy.tar_path(shard).replace(layer.tar_path(shard))
        sync_folder(layer.path)
        copy.manifest_path(shard).replace(layer.manifest_path(shard))
        sync_folder(layer.path)


def remove_copies(instance: Instance) -> None:
    """Remove the copies that were not needed."""
    shutil.rmtree(instance.path / COPIES, ignore_errors=True)


def pending_shards(instance: Instance, stage: Map) -> tuple[list[str], int]:
    """The unfinished shards, and the total number of shards; called once, before any worker starts."""
    remove_copies(instance)  # of a driver that was killed
    stage.prepare(instance)
    shards = stage.shards(instance)
    return [shard for shard in shards if not instance.layer.is_finished(shard)], len(shards)
