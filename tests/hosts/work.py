"""Who is at work on what, and stopping a process while that is still so.

A shard of the tests takes a tenth of a second. To kill an actor at work, it is first frozen (SIGSTOP): what is seen
then stays so until it is killed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shards.work_notes import unpack
from tests.hosts.dashboard import ENDED, Job
from tests.hosts.host import Host
from tests.hosts.processes import Process
from tests.hosts.runs import Runs

MAKING = "ray::ShardActor.make"
COUNTING = "ray::ShardActor.count"
RANK = "ray::RayTrainWorker"


@dataclass(frozen=True)
class Worker:
    """A process and its host."""

    host: Host
    process: Process

    def kill(self) -> None:
        self.host.kill(self.process)

    def freeze(self) -> None:
        self.host.kill(self.process, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue, unless it has ended."""
        with suppress(ProcessLookupError):
            self.host.kill(self.process, signal.SIGCONT)

    def notes(self, folder: Path) -> dict[str, str]:
        """What it noted that it works on; see `cluster.failures.crash_files`."""
        path = folder / f".{self.host.name}-{_inner_pid(self.process)}.notes.tmp"
        return unpack(path.read_bytes()) if path.exists() else {}


def workers(hosts: Sequence[Host], title: str) -> list[Worker]:
    """All processes with this title on these hosts."""
    return [
        Worker(host, process) for host in hosts for process in host.processes() if process.command.startswith(title)
    ]


def frozen_actor(hosts: Sequence[Host], runs: Runs, kind: str, job: Job) -> tuple[Worker, str]:
    """An actor that is frozen in the middle of a shard, while at least one other shard is done and one is not begun;
    and that shard. Raises AssertionError if the job ends first."""
    for _ in while_running(job):
        for worker in workers(hosts, MAKING):
            with suppress(ProcessLookupError):
                worker.freeze()
                done, folder = runs.shards_done(kind), runs.instance(kind)
                shard = worker.notes(folder).get("shard", "") if folder is not None else ""
                is_making = worker.process.title().startswith(MAKING)
                if is_making and shard and shard not in done and 1 <= len(done) < runs.num_shards() - 1:
                    return worker, shard
                worker.resume()
    raise AssertionError(f"no actor was at work on {kind} with a shard done and one to do:\n{job.logs()[-3000:]}")


def rank_past_checkpoint(
    hosts: Sequence[Host], runs: Runs, job: Job, *, kind: str = "train_classifier", least: int = 4
) -> tuple[Worker, int, int]:
    """A rank that is frozen at least one whole step past its last checkpoint; with the checkpoint's step and its own.
    Raises AssertionError if the job ends first."""
    for _ in while_running(job):
        step = runs.step(kind)
        for worker in workers(hosts, RANK) if step >= least else []:
            with suppress(ProcessLookupError):
                worker.freeze()
                folder, saved = runs.instance(kind), runs.step(kind)
                noted = worker.notes(folder).get("step", "") if folder is not None else ""
                if noted.isdigit() and int(noted) > saved + 1:
                    return worker, saved, int(noted)
                worker.resume()
    raise AssertionError(f"no rank was past a checkpoint of step {least} or later:\n{job.logs()[-3000:]}")


def frozen_counter(hosts: Sequence[Host], runs: Runs, kind: str, job: Job) -> Worker:
    """An actor that is frozen while it counts a shard, whose counts are in no file before all are added up."""
    for _ in while_running(job):
        for worker in workers(hosts, COUNTING):
            with suppress(ProcessLookupError):
                worker.freeze()
                folder = runs.instance(kind)
                shard = worker.notes(folder).get("shard") if folder is not None else ""
                if shard and worker.process.title().startswith(COUNTING):
                    return worker
                worker.resume()
    raise AssertionError(f"no actor counted for {kind}:\n{job.logs()[-3000:]}")


def rank_in_checkpoint(
    hosts: Sequence[Host], runs: Runs, job: Job, *, kind: str = "train_classifier", least: int = 3
) -> tuple[Worker, int]:
    """Rank 0, frozen while it writes a checkpoint after the one of step `least` or later; with the step of the last
    whole one. Its files are there, under their own or a temporary name, and the pointer does not name them yet."""
    for _ in while_running(job, pause=0.001):
        folder, saved = runs.instance(kind), runs.step(kind)
        if folder is None or saved < least or not _newer_files(folder / "checkpoints", saved):
            continue
        for worker in workers(hosts, RANK):
            if worker.notes(folder).get("rank") != "0":
                continue
            with suppress(ProcessLookupError):
                worker.freeze()
                if runs.step(kind) == saved and _newer_files(folder / "checkpoints", saved):
                    return worker, saved
                worker.resume()
    raise AssertionError(f"no checkpoint was seen while it was written:\n{job.logs()[-3000:]}")


def _newer_files(folder: Path, step: int) -> list[str]:
    """Files and folders of checkpoints after this step."""
    with suppress(OSError):
        numbers = {name: re.search(r"step-(\d+)", name) for name in os.listdir(folder)}
        return [name for name, found in numbers.items() if found and int(found[1]) > step]
    return []


def while_running(job: Job, *, timeout: float = 240.0, pause: float = 0.02) -> Iterator[None]:
    """Often, until the job has ended or the time is over."""
    end = asked = time.monotonic()
    end += timeout
    while time.monotonic() < end:
        yield
        time.sleep(pause)
        if time.monotonic() - asked > 2:
            if job.status() in ENDED:
                return
            asked = time.monotonic()


def _inner_pid(process: Process) -> int:
    """The pid inside the host."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return 0
