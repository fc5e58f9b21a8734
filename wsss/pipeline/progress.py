"""Progress output while a recipe runs: one bar for the running stage, and an estimate of the total time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from wsss.contract.failure import Failure
from wsss.pipeline.console import plain_console

DEFAULT_EXPECTED = 30.0
"""Seconds assumed for a stage that the recipe gives no time for."""
PLAIN_INTERVAL = 20.0
"""Seconds between lines if the output is not a terminal."""
_ENOUGH = 0.05
"""The share of an instance from which on its time says something about its speed."""
_TRUST = 0.1
"""How much the recipe's times count for the speed of this machine, as a share of their sum: as if so much of the run
had taken exactly that long. A first stage of some seconds would otherwise halve or double the estimate of all."""


class Reporter:
    """Bars on a terminal, a line every `PLAIN_INTERVAL` seconds elsewhere; with `quiet`, only notes."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or plain_console(stderr=True)
        self._quiet = quiet
        self._expected: dict[str, float] = {}
        self._waiting: list[str] = []
        self._trusted = 0.0
        self._spent_expected = 0.0
        self._spent = 0.0
        self._name = ""
        self._began = 0.0
        self._last_line = 0.0
        self._share = 0.0
        self._lost_since: float | None = None
        self._waited = 0.0
        self._bars: Progress | None = None
        self._bar: TaskID | None = None

    def start(self, names: list[str], expected: dict[str, float]) -> None:
        """Announce the instances that are about to run, with the seconds they took when the recipe was measured."""
        self._waiting = list(names)
        self._expected = {name: expected.get(name, DEFAULT_EXPECTED) for name in names}
        self._trusted = _TRUST * sum(expected.get(name, 0.0) for name in names)
        if self.console.is_terminal and not self._quiet:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[state]}", markup=False),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns, console=self.console, transient=True)
            self._bars.start()

    def begin(self, name: str) -> None:
        """An instance starts."""
        self._name, self._began, self._last_line = name, time.monotonic(), time.monotonic()
        self._share, self._lost_since, self._waited = 0.0, None, 0.0
        if self._bars is not None:
            self._bar = self._bars.add_task(name, total=1.0, state="starting")
        else:
            left = f" ({_clock(self._left(0.0))} left in total)" if self._trusted else ""
            self._print("", f"{name}: starting{left}")

    def progress(self, done: float, total: float, state: str) -> None:
        """The running instance has completed `done` of `total`."""
        share = done / total if total else 1.0
        if share != self._share and self._lost_since is not None:
            self._waited += time.monotonic() - self._lost_since
            self._lost_since = None
        self._share = share
        after = " after the recovery" if self._lost_since is not None else ""
        text = f"{state}{self._left_in_words(share)}{after}"
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=share, state=text)
        elif time.monotonic() - self._last_line > PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            self._print("", f"{self._name}: {share:.0%}, {text}")

    def end(self, name: str, seconds: float) -> None:
        """The instance finished."""
        self._spent += seconds
        self._spent_expected += self._expected.get(name, 0.0)
        self._close(name)
        self._print("done", f"   {name} in {_clock(seconds)}", style="green")

    def notes(self, name: str, lines: Sequence[str]) -> None:
        """Notes of the instance, one line each, printed literally."""
        for line in lines:
            self.console.print(f"note   {name}: {line}", markup=False, highlight=False, soft_wrap=True)

    def reused(self, name: str) -> None:
        """The instance was already done."""
        self._close(name)
        self._print("kept", f"   {name}", style="dim")

    def skipped(self, name: str, reason: str) -> None:
        """The instance has nothing to do."""
        self._close(name)
        self._print("skipped", f" {name}: {reason}", style="yellow")

    def restarted(self, name: str, failure: Failure) -> None:
        """A worker of the running instance was replaced."""
        place = f" at {place}" if (place := replace(failure, who="").place()) else ""
        process = f" (process {failure.pid} on {failure.host})" if failure.pid else ""
        self.note(f"{name}: {failure.who}{process} was replaced{place}: {' '.join(failure.message.split())}")
        if consequence := "; ".join(part for part in (failure.redone, failure.awaited) if part):
            self.note(f"{name}: {consequence}")
        if self._lost_since is None:
            self._lost_since = time.monotonic()

    def waiting(self, name: str, holder: str) -> None:
        """Another process is running the instance."""
        self.note(f"{name}: waiting for another process that is running it: {holder}")

    def note(self, text: str) -> None:
        """Print one line immediately and literally."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Remove the bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _print(self, word: str, text: str, *, style: str = "") -> None:
        """A word in a style, followed by literal text."""
        if not self._quiet:
            self.console.print(Text.assemble((word, style), text), soft_wrap=True)

    def _close(self, name: str) -> None:
        if self._bars is not None and self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None
        if name in self._waiting:
            self._waiting.remove(name)

    def _left_in_words(self, share: float) -> str:
        """What is left: in total if the recipe has times, else of the running instance, once part of it is done."""
        if self._trusted:
            return f", {_clock(self._left(share))} left in total"
        return f", {_clock(self._worked() / share * (1 - share))} left of {self._name}" if share > _ENOUGH else ""

    def _worked(self) -> float:
        """Seconds of the running instance; those since a loss say nothing about the speed of the work."""
        until = time.monotonic() if self._lost_since is None else self._lost_since
        return until - self._began - self._waited

    def _left(self, share: float) -> float:
        """Expected seconds of the remaining work, scaled by the speed of this machine so far."""
        expected_left = sum(self._expected[name] for name in self._waiting) - share * self._expected.get(
            self._name, 0.0
        )
        spent, expected = self._spent, self._spent_expected
        if self._name in self._waiting and share > _ENOUGH:
            spent += self._worked()
            expected += share * self._expected[self._name]
        spent, expected = spent + self._trusted, expected + self._trusted
        return max(expected_left, 0.0) * (spent / expected if expected > 1 else 1.0)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
