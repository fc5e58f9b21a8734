"""Failures in a loader's processes: an exception is sent to the rank instead of a batch, and a process's death is
reported with its cause.

torch itself would raise an exception of the same class with the traceback as its message. For a dead process it would
only report that it "exited unexpectedly", or that a connection was reset.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, get_worker_info

from cluster.failures.crash_files import crash_files, exit_cause, kernel_kills, read_crash
from cluster.failures.rank_failures import is_final
from cluster.training.faults import readable_example
from cluster.training.loader_server import end_with_rank
from wsss.contract.failure import Failure, WorkFailedError, failure_of
from wsss.contract.fit import Draw, TrainingSet

_END_SECONDS = 2.0
_open_files = ExitStack()
"""A loader's process keeps its crash files for as long as it lives."""


class Examples(Dataset[dict[str, Any] | Failure]):
    """A training set as a torch Dataset that is indexed by draws."""

    def __init__(self, examples: TrainingSet) -> None:
        self._examples = examples

    def __getitem__(self, draw: Draw) -> dict[str, Any] | Failure:
        try:
            return readable_example(self._examples, draw)
        except Exception as error:
            if get_worker_info() is None:
                raise
            return failure_of(error, final=is_final(error))


class Collated:
    """A collate function: the batch made by `collate`, or the first failure among the examples."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self._collate = collate

    def __call__(self, examples: list[dict[str, Any] | Failure]) -> dict[str, Any] | Failure:
        read = [example for example in examples if not isinstance(example, Failure)]
        failed = [example for example in examples if isinstance(example, Failure)]
        return failed[0] if failed else self._collate(read)


def start_loader(worker: int, *, folder: Path | None) -> None:
    """Called in a loader's process before its first example: end with the rank, and keep crash files in `folder`."""
    end_with_rank(worker)
    if folder is not None:
        _open_files.enter_context(crash_files(folder, own_process=True))


def batches_of(loaded: Iterator[dict[str, Any] | Failure], *, folder: Path | None) -> Iterator[dict[str, Any]]:
    """The batches of a loader. Raises `WorkFailedError` with the failure of one of its processes."""
    kills = kernel_kills()
    while True:
        try:
            batch = next(loaded)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if folder is None or (dead := _first_dead(getattr(loaded, "_workers", []))) is None:
                raise
            raise WorkFailedError(_died(*dead, folder=folder, out_of_memory=kernel_kills() > kills)) from error
        if isinstance(batch, Failure):
            raise WorkFailedError(batch)
        yield batch


def _first_dead(processes: Sequence[BaseProcess]) -> tuple[int, int] | None:
    """Id and exit status of a process that failed. Waits briefly: its end may be seen later than its consequences."""
    wait([process.sentinel for process in processes], _END_SECONDS)
    ended = ((process.pid or 0, process.exitcode) for process in processes)
    return next(((pid, code) for pid, code in ended if code), None)


def _died(pid: int, code: int, *, folder: Path, out_of_memory: bool) -> Failure:
    host = socket.gethostname()
    crash = read_crash(folder, host=host, pid=pid)
    cause = exit_cause(code, crash=crash, out_of_memory=out_of_memory)
    message = f"a process of the loader ended: {cause}"
    failure = Failure(message=message, host=host, pid=pid, cause=cause, traceback=crash.stacks, final=False)
    return failure.about(crash.work)
