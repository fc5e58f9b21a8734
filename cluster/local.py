"""LocalRuntime: everything in this process, no Ray; for tests, debugging and small machines."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from cluster.engine import run_rank
from cluster.fit_files import RankError, raise_rank_errors, read_outcome, watch_progress, write_rank_error
from cluster.rank_process import RankPlace
from cluster.shard_work import ShardBench, pending_shards
from wsss.contract.counts import Counts
from wsss.contract.fit import Fit
from wsss.contract.runtime import Progress
from wsss.contract.stage import Instance, Map, Outcome, Reduce

if TYPE_CHECKING:
    from wsss.contract.runtime import RuntimeSettings


class LocalRuntime:
    """Shards one after the other in this process; training ranks as processes of this machine."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._bench: ShardBench | None = None

    def _shard_bench(self) -> ShardBench:
        if self._bench is None:
            self._bench = ShardBench(threads=self._settings.threads, gpu=self._settings.actor_gpus > 0)
        return self._bench

    def map(self, instance: Instance, stage: Map, progress: Progress) -> None:
        pending, total = pending_shards(instance, stage)
        for number, shard in enumerate(pending):
            progress(total - len(pending) + number, total, f"{total - len(pending) + number} of {total} shards")
            self._shard_bench().make_shard(instance, shard)

    def reduce(self, instance: Instance, stage: Reduce, progress: Progress) -> Counts:
        counts = Counts()
        shards = stage.shards(instance)
        for number, shard in enumerate(shards):
            progress(number, len(shards), f"{number} of {len(shards)} shards")
            counts += self._shard_bench().count_shard(instance, shard)
        return counts

    def fit(self, instance: Instance, stage: Fit, progress: Progress) -> Outcome:
        """Every rank is a process of its own, also a single one: DeepSpeed's state must not outlive a training."""
        address = f"127.0.0.1:{free_port()}"
        context = multiprocessing.get_context("spawn")
        ranks: list[SpawnProcess] = []
        with tempfile.TemporaryDirectory() as folder, watch_progress(instance.path, progress):
            for rank in range(stage.num_ranks):
                place = RankPlace(
                    rank, stage.num_ranks, rank, self._settings.threads, self._settings.rank_gpus, address
                )
                ranks.append(context.Process(target=_rank_process, args=(instance, place, Path(folder))))
            _run_all(ranks)
            raise_rank_errors(Path(folder), instance.name)
        if codes := [process.exitcode for process in ranks if process.exitcode != 0]:
            raise RankError(f"{instance.name}: training failed: a rank ended with exit code {codes[0]}")
        return read_outcome(instance.path)

    def close(self) -> None:
        self._bench = None


def _run_all(ranks: list[SpawnProcess]) -> None:
    """Start all ranks and wait; where one fails the others are ended, since they would wait for it for ever."""
    for process in ranks:
        process.start()
    try:
        while any(process.is_alive() for process in ranks):
            for process in ranks:
                process.join(0.2)
            if any(process.exitcode not in (None, 0) for process in ranks):
                break
    finally:
        for process in ranks:
            if process.is_alive():
                process.kill()
            process.join()


def _rank_process(instance: Instance, place: RankPlace, folder: Path) -> None:
    _end_with_parent(os.getppid())
    try:
        run_rank(instance, place)
    except Exception as error:
        write_rank_error(folder, place.rank, error)
        os._exit(1)  # the driver tells; no traceback per rank
    if dist.is_initialized():  # not where the training was finished already
        dist.destroy_process_group()


def _end_with_parent(parent: int) -> None:
    """A rank whose driver was killed ends too, instead of training on without it."""

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(0.5)
        os._exit(1)

    start: Callable[[], None] = threading.Thread(target=watch, daemon=True).start
    start()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
