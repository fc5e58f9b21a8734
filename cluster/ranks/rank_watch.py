"""Handles failures in Ray Train's controller: which rank failed and why, and whether to try again."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError

from cluster.failures.crash_files import CrashReport, kernel_kills, read_crash
from cluster.failures.death_cause import PREEMPTED, death_cause
from cluster.failures.rank_failures import cause_of, died
from cluster.ranks.ray_backend import forget_ranks, started_ranks
from cluster.training.checkpoints import last_step
from cluster.training.fit_files import RankError, write_restart
from cluster.training.micro_batches import read_limit
from shards.file_system_errors import FileSystemError
from wsss.contract.failure import Failure, carried_failure


class StartWatch(ControllerCallback):
    """Reports and limits failed starts of the ranks, of which Ray Train says nothing and which it repeats for ever."""

    def __init__(self, folder: Path, *, instance: str, retries: int, number: int) -> None:
        self._folder, self._instance, self._retries = folder, instance, retries
        self._number, self._failed = number, 0

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray Train. An exception raised here ends the training."""
        error = getattr(current_state, "training_failed_error", None)
        if isinstance(error, PreemptionError):
            self._report(Failure(message=str(error), who="the group of ranks", cause=PREEMPTED, final=False))
        elif isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupFailedError):
            message = f"the ranks could not be started: {error.controller_failure}"
            failure = Failure(message=message, who="the group of ranks", instance=self._instance, final=False)
            self._failed += 1
            if self._failed > self._retries:
                raise RankError(failure)
            self._report(failure)

    def _report(self, failure: Failure) -> None:
        forget_ranks(self._folder)
        self._number += 1
        with suppress(OSError, FileSystemError):
            write_restart(self._folder, failure, number=self._number, kind="group")


class RankWatch(UserCallback):
    """Ends a training immediately for an error that would recur, and reports every restart to the driver."""

    def __init__(
        self, path: Path, folder: Path, *, instance: str, retries: int, restarts: Sequence[Failure] = ()
    ) -> None:
        """`path`: the instance's folder with the ranks' crash files; `folder`: the folder for reports of restarts.

        `restarts`: those of the same training before this attempt.
        """
        self._path, self._folder = path, folder
        self._instance, self._retries = instance, retries
        self._number = len(restarts)
        self._failed = sum(one.cause != PREEMPTED for one in restarts)
        self._step_at_preemption: int | None = -1
        self._limit = read_limit(path)
        self._host, self._kernel_kills = socket.gethostname(), kernel_kills()

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called by Ray Train. An exception raised here ends the training."""
        failure = self._cause(worker_exceptions)
        forget_ranks(self._folder)
        self._number += 1
        limit = read_limit(self._path)
        smaller, self._limit = limit != self._limit, limit  # a GPU's memory needs smaller micro-batches: no failure
        if not smaller and (failure.cause != PREEMPTED or not self._progressed()):
            self._failed += 1
        if failure.final or self._failed > self._retries:
            raise RankError(failure)
        with suppress(OSError, FileSystemError):
            write_restart(self._folder, failure, number=self._number)

    def _progressed(self) -> bool:
        """True if a checkpoint has been saved since the preemption before this one."""
        step, before = last_step(self._path / "checkpoints"), self._step_at_preemption
        self._step_at_preemption = step
        return before == -1 or step != before

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
        ranks = started_ranks(self._folder)
        host, pid = (ranks[rank].host, ranks[rank].pid) if rank < len(ranks) else ("", 0)
        crash = read_crash(self._path, host=host, pid=pid) if host else CrashReport({}, "")
        kernel_killed = host == self._host == socket.gethostname() and kernel_kills() > self._kernel_kills
        cause = death_cause(error, crash=crash, kernel_killed=kernel_killed)
        self._kernel_kills = kernel_kills()
        if not pid and (found := re.search(r"^\s*pid: (\d+)", str(error), re.MULTILINE)):
            pid = int(found.group(1))
        failure = died(rank, cause=cause, host=host, pid=pid, crash=crash)
        return replace(failure, traceback=failure.traceback or str(error))
