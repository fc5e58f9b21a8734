"""Handles failures in Ray Train's controller: which rank failed and why, and whether to try again."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.train import UserCallback
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from cluster.crash_files import CrashReport, find_process, kernel_kills, read_crash
from cluster.death_cause import PREEMPTED, death_cause
from cluster.fit_files import RankError, write_restart
from cluster.rank_failures import cause_of, died
from cluster.ray_backend import forget_ranks
from shards.file_system_errors import FileSystemError
from wsss.contract.failure import Failure, carried_failure


class RankWatch(UserCallback):
    """Ends a training immediately for an error that would recur, and reports every restart to the driver."""

    def __init__(self, path: Path, restarts: Path, *, instance: str, retries: int) -> None:
        """`path`: the instance's folder with the ranks' crash files; `restarts`: the folder for reports of restarts."""
        self._path, self._restarts = path, restarts
        self._instance, self._retries = instance, retries
        self._restarted = self._failed = 0
        self._host, self._kernel_kills = socket.gethostname(), kernel_kills()

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called by Ray Train. An exception raised here ends the training."""
        failure = self._cause(worker_exceptions)
        forget_ranks(self._restarts)
        self._restarted += 1
        if failure.cause != PREEMPTED:  # Ray Train does not count these against the retries
            self._failed += 1
        if failure.final or self._failed > self._retries:
            raise RankError(failure)
        with suppress(OSError, FileSystemError):
            write_restart(self._restarts, failure, number=self._restarted)

    def failure_in(self, error: TrainingFailedError) -> Failure:
        """The failure for a training that Ray Train ended."""
        if isinstance(error, ControllerError):
            carried = carried_failure(error.controller_failure)
            return carried or Failure(message=str(error.controller_failure), instance=self._instance)
        if isinstance(error, WorkerGroupError):
            return self._cause(error.worker_failures)
        return Failure(message=str(error), instance=self._instance)

    def _cause(self, errors: Mapping[int, Exception]) -> Failure:
        failures = [carried_failure(error) or self._died(rank, error) for rank, error in errors.items()]
        return cause_of(failures, instance=self._instance)

    def _died(self, rank: int, error: Exception) -> Failure:
        """The failure for a rank whose process died, or that Ray cannot reach."""
        host, pid = find_process(self._path, rank=str(rank))
        crash = read_crash(self._path, host=host, pid=pid) if host else CrashReport({}, "")
        kernel_killed = host == self._host == socket.gethostname() and kernel_kills() > self._kernel_kills
        cause = death_cause(error, crash=crash, kernel_killed=kernel_killed)
        self._kernel_kills = kernel_kills()
        if not pid and (found := re.search(r"^\s*pid: (\d+)", str(error), re.MULTILINE)):
            pid = int(found.group(1))
        failure = died(rank, cause=cause, host=host, pid=pid, crash=crash)
        return replace(failure, traceback=failure.traceback or str(error))
