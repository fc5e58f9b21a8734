"""LocalRuntime: shards in this process, training ranks in child processes, no Ray; for tests and small machines."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from cluster.failures.crash_files import crash_files, kernel_kills
from cluster.failures.rank_failures import cause_of, dead_rank, rank_failure
from cluster.session.room import CPU, GPU, demand_of, require_room_here
from cluster.shard_work import ShardExecutor, pending_shards
from cluster.training import hand_over
from cluster.training.engine import run_rank
from cluster.training.fit_files import RankError, read_outcome, watch_progress
from cluster.training.micro_batches import read_limit
from cluster.training.rank_process import RankPlace
from shards.files import remove_leftovers
from wsss.contract.counts import Counts
from wsss.contract.failure import Failure, OnRestart, ignore_restart
from wsss.contract.fit import Fit
from wsss.contract.gpu_memory import free_gpu_memory
from wsss.contract.runtime import Progress
from wsss.contract.stage import Instance, Map, Outcome, Reduce
from wsss.contract.stopping import asked_first, raise_if_stopped, uninterrupted

if TYPE_CHECKING:
    from wsss.contract.runtime import RuntimeSettings


_CAUSE_SECONDS = 2.0
"""Seconds to wait for the exit of a failed rank after other ranks have reported losing it."""


class LocalRuntime:
    """Runs shards one after the other in this process, and training ranks as processes on this machine."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._executor: ShardExecutor | None = None

    def _shard_executor(self, instance: Instance) -> ShardExecutor:
        settings, resources = self._settings, self._settings.resources_of(instance)
        gpus, cpus = resources.actor_gpus, resources.actor_cpus
        if self._executor is None or (self._executor.gpus, self._executor.cpus) != (gpus, cpus):
            self._executor = ShardExecutor(
                threads=settings.threads, gpus=gpus, cpus=cpus, shard_seconds=settings.shard_seconds
            )
        return self._executor

    def check(self, instances: Sequence[Instance]) -> None:
        """Raises ValueError if stages are to use more GPUs than this machine has; shards need one at a time."""
        demands = [demand_of(instance, self._settings) for instance in instances]
        demands = [replace(one, number=1) if one.worker == "actor" else one for one in demands]
        if any(one.needs[GPU] for one in demands):
            require_room_here(demands, {CPU: math.inf, GPU: float(torch.cuda.device_count())})

    def map(
        self, instance: Instance, stage: Map, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> None:
        """`on_restart` is never called, here and below: this runtime has no workers to replace."""
        pending, total = pending_shards(instance, stage)
        for number, shard in enumerate(pending):
            raise_if_stopped()
            progress(total - len(pending) + number, total, f"{total - len(pending) + number} of {total} shards")
            self._shard_executor(instance).make_shard(instance, shard)

    def reduce(
        self, instance: Instance, stage: Reduce, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Counts:
        counts = Counts()
        shards = stage.shards(instance)
        for number, shard in enumerate(shards):
            raise_if_stopped()
            progress(number, len(shards), f"{number} of {len(shards)} shards")
            counts += self._shard_executor(instance).count_shard(instance, shard)
        return counts

    def fit(
        self, instance: Instance, stage: Fit, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Outcome:
        """Every rank is a separate process, even a single one: DeepSpeed's state must not outlive a training."""
        hand_over.withdraw(instance.path)
        reason = "the driver was asked to stop (SIGTERM)"
        asked = asked_first(lambda: hand_over.ask(instance.path, reason), seconds=self._settings.stop_seconds)
        self.release()
        with watch_progress(instance.path, progress), asked:
            limit, failure = read_limit(instance.path), self._train(instance, stage)
            while failure is not None and not failure.final and read_limit(instance.path) != limit:
                # A rank noted that its GPU's memory needs smaller micro-batches.
                limit, failure = read_limit(instance.path), self._train(instance, stage)
        if failure is not None:
            raise RankError(failure)
        if (handed := hand_over.handed_over(instance.path)) is not None:
            raise_if_stopped()
            message = f"handed over after step {handed.step}: {handed.reason}; the same command resumes from there"
            raise RankError(Failure(message=message, instance=instance.name, final=False))
        return read_outcome(instance.path)

    def _train(self, instance: Instance, stage: Fit) -> Failure | None:
        """Train until the end, until the training is handed over, or until a rank fails; the failure behind that."""
        address, gpus = f"127.0.0.1:{free_port()}", self._settings.resources_of(instance).rank_gpus
        ranks: list[_Rank] = []
        for rank in range(stage.world_size):
            place = RankPlace(rank, stage.world_size, rank, self._settings.threads, gpus, address)
            ranks.append(_Rank.of(instance, place))
        try:
            failures = _run_all(ranks, instance.path)
        finally:
            remove_leftovers(instance.path)  # of ranks and loader processes that were killed
        return cause_of(failures, instance=instance.name) if failures else None

    def release(self) -> None:
        """Give up the last stage's network, which a training on the same GPU has to do without."""
        self._executor = None
        free_gpu_memory()

    def close(self) -> None:
        self._executor = None


@dataclass
class _Rank:
    """A training rank: its process, and the pipe on which it reports a failure."""

    number: int
    process: SpawnProcess
    failures: Connection
    sender: Connection

    @classmethod
    def of(cls, instance: Instance, place: RankPlace) -> _Rank:
        context = multiprocessing.get_context("spawn")
        failures, sender = context.Pipe(duplex=False)
        process = context.Process(target=_rank_process, args=(instance, place, sender))
        return cls(place.rank, process, failures, sender)

    def start(self) -> None:
        with uninterrupted():
            self.process.start()
        self.sender.close()  # so that the pipe closes when the process ends

    def failure(self) -> Failure | None:
        """The failure that the rank sent; None if it sent nothing."""
        try:
            return Failure(**json.loads(self.failures.recv_bytes())) if self.failures.poll() else None
        except (EOFError, OSError):
            return None


def _run_all(ranks: list[_Rank], folder: Path) -> list[Failure]:
    """Start all ranks and wait. If one fails the others are killed, since they would wait for it forever."""
    _start_quiet_tracker()
    kills, found = kernel_kills(), _Ended()
    try:
        for rank in ranks:
            rank.start()
        while any(rank.process.is_alive() for rank in ranks) and not found.any_failed:
            raise_if_stopped()
            found.update(ranks, seconds=0.2)
        found.update(ranks)
        deadline = time.monotonic() + _CAUSE_SECONDS
        while found.only_consequences and time.monotonic() < deadline:
            found.update(ranks, seconds=0.05)
    finally:
        for rank in ranks:
            if rank.process.is_alive():
                rank.process.kill()
            if rank.process.pid is not None:
                rank.process.join()
    failures = dict(found.failures)
    for rank in ranks:
        pid, code = rank.process.pid or 0, found.codes.get(rank.number, 0)
        if code and rank.number not in failures:
            failures[rank.number] = dead_rank(rank.number, code=code, pid=pid, folder=folder, kernel_kills_before=kills)
    return [failures[number] for number in sorted(failures)]


@dataclass
class _Ended:
    """The failures that ranks sent, and the exit codes of ranks that ended by themselves."""

    failures: dict[int, Failure] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)

    @property
    def any_failed(self) -> bool:
        return bool(self.failures) or any(self.codes.values())

    @property
    def only_consequences(self) -> bool:
        """True if ranks reported losing another rank, but that rank's exit has not been seen yet."""
        died = any(code and number not in self.failures for number, code in self.codes.items())
        return bool(self.failures) and not died and not any(failure.final for failure in self.failures.values())

    def update(self, ranks: list[_Rank], *, seconds: float = 0.0) -> None:
        """Wait until a rank ends, at most for `seconds`; then collect failures and exit codes."""
        alive = [rank for rank in ranks if rank.process.is_alive()]
        wait([rank.process.sentinel for rank in alive], seconds)
        for rank in ranks:
            if (failure := rank.failure()) is not None:
                self.failures[rank.number] = failure
            if (code := rank.process.exitcode) is not None:
                self.codes[rank.number] = code


def _start_quiet_tracker() -> None:
    """Start Python's resource tracker so that it does not warn when it frees shared memory of killed ranks."""
    name, before = "PYTHONWARNINGS", os.environ.get("PYTHONWARNINGS")
    os.environ[name] = ",".join(filter(None, [before, "ignore:resource_tracker:UserWarning"]))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _rank_process(instance: Instance, place: RankPlace, sender: Connection) -> None:
    _end_with_parent(os.getppid())
    # Ctrl-C and a closed terminal reach every process of it, but ranks leave it to the driver to end them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # So does SIGTERM where a batch system sends it to every process of a job.
    signal.signal(signal.SIGTERM, lambda *_: hand_over.ask(instance.path, f"rank {place.rank} got SIGTERM"))
    try:
        with crash_files(instance.path, own_process=True):
            run_rank(instance, place)
    except hand_over.HandedOverError:
        pass
    except Exception as error:
        sender.send_bytes(json.dumps(asdict(rank_failure(error, rank=place.rank))).encode())
        os._exit(1)  # the driver reports the failure; no traceback per rank
    if dist.is_initialized():  # false if the training had already finished
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # All files are written. The clean-up at the end of a process aborts it if a thread of gloo still runs, seldom.
    os._exit(0)


def _end_with_parent(parent: int) -> None:
    """End this rank when its driver was killed, instead of continuing to train without it."""

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
