"""What a driver reports while Ray Train's ranks work: their progress, what was lost, what is redone and awaited."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.failures.death_cause import PREEMPTED
from cluster.training.fit_files import POLL_SECONDS, PROGRESS
from cluster.training.hand_over import HandedOver
from wsss.contract.failure import Failure, OnRestart
from wsss.contract.repeated import repeated
from wsss.contract.runtime import Progress

AWAITED_SECONDS = 2.0
"""How often what is waited for is looked up and reported."""


class FitReports:
    """Reads the files of ranks and controller in one thread, for as long as `watching` lasts."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        *,
        progress: Progress,
        on_restart: OnRestart,
        checkpoint_step: Callable[[], int | None],
        awaited: Callable[[], str],
    ) -> None:
        """`path`: the instance's folder; `folder`: where the controller writes restarts.

        `checkpoint_step`: step of the last checkpoint, None if there is none. `awaited`: what is waited for while there
        is no progress.
        """
        self._path, self._folder = path, folder
        self._progress, self._on_restart = progress, on_restart
        self._checkpoint_step, self._awaited = checkpoint_step, awaited
        self._seen: dict[str, Any] = {"step": 0, "num_steps": 1}
        self._known: set[Path] = set()
        self._polls = 0
        self.restarts: list[Failure] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            with repeated(self.report, seconds=POLL_SECONDS):
                yield
        finally:
            self._report_restarts()
            (self._path / PROGRESS).unlink(missing_ok=True)

    def report(self) -> None:
        """Report what is new."""
        self._report_restarts()
        try:
            self._seen = json.loads((self._path / PROGRESS).read_bytes())
        except (OSError, ValueError):
            self._polls += 1
            if self._polls % max(1, round(AWAITED_SECONDS / POLL_SECONDS)) == 0:
                state = "waiting for the ranks"
                with suppress(Exception):  # an error of a look-up for a message must not end the thread
                    state = self._awaited()
                self._progress(self._seen["step"], self._seen["num_steps"], state)
            return
        self._progress(self._seen["step"], self._seen["num_steps"], self._seen["state"])

    def handed_over(self, handed: HandedOver) -> None:
        """Report that the ranks saved a checkpoint and ended, and will be started again."""
        (self._path / PROGRESS).unlink(missing_ok=True)
        self._seen["step"] = handed.step
        failure = Failure(
            message=f"a checkpoint was saved, because {handed.reason}",
            who="the group of ranks",
            step=str(handed.step),
            cause=PREEMPTED,
            final=False,
            redone=f"training resumes from the checkpoint of step {handed.step}: no finished step is done again",
            awaited="all ranks start again",
        )
        self.restarts.append(failure)
        self._on_restart(failure)

    def _report_restarts(self) -> None:
        for path in sorted(set(self._folder.glob("restart-*.json")) - self._known):
            self._known.add(path)
            failure = self._explained(Failure(**json.loads(path.read_bytes())))
            self.restarts.append(failure)
            self._on_restart(failure)

    def _explained(self, failure: Failure) -> Failure:
        """The failure with what is redone, from the last step that is known to have begun. The old progress is gone."""
        with suppress(OSError, ValueError):
            self._seen = json.loads((self._path / PROGRESS).read_bytes())
        (self._path / PROGRESS).unlink(missing_ok=True)
        reached = max(int(self._seen["step"]), int(failure.step) - 1 if failure.step.isdigit() else 0)
        saved = self._checkpoint_step() or 0
        self._seen["step"] = saved
        lost = max(0, reached - saved)
        where = f"from the checkpoint of step {saved}" if saved else "from the start, since there is no checkpoint yet"
        steps = f"steps {saved + 1} to {reached} are done again" if lost else "no finished step is done again"
        return replace(
            failure, redone=f"training resumes {where}: {steps}", awaited="all ranks start again", steps_redone=lost
        )
