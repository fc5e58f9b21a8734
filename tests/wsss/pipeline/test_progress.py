from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from wsss.contract.failure import Failure
from wsss.pipeline import progress
from wsss.pipeline.progress import Reporter


class Clock:
    """Time that passes only on request."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def lines(out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


def test_estimate_follows_the_recipe_and_then_this_machine(clock: Clock) -> None:
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=100))
    reporter.start(["a", "b", "c"], {"a": 100, "b": 200, "c": 60})
    reporter.begin("a")
    clock.now += 50
    reporter.progress(
        1, 4, "1 of 4 shards"
    )  # a quarter took 50 s where the recipe says 25: (50 + 36) / (25 + 36) times 335 s
    clock.now += 150
    reporter.end("a", 200.0)
    reporter.begin("b")
    reporter.reused("b")
    reporter.begin("c")
    reporter.stop()
    assert lines(out) == [
        "a: starting (6:00 left in total)",
        "a: 25%, 1 of 4 shards, 7:52 left in total",
        "done   a in 3:20",
        "b: starting (7:31 left in total)",
        "kept   b",
        "c: starting (1:44 left in total)",
    ]


@pytest.mark.parametrize(("seconds", "left"), [(3.0, "4:14"), (16.0, "5:53")])
def test_a_first_stage_of_some_seconds_does_not_halve_or_double_the_estimate(
    clock: Clock, seconds: float, left: str
) -> None:
    """292 s are left; the first stage took 3 or 16 s instead of 8."""
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=100))
    reporter.start(["build", "train"], {"build": 8, "train": 292, "elsewhere": 1000})
    reporter.end("build", seconds)
    reporter.begin("train")
    assert lines(out)[-1] == f"train: starting ({left} left in total)"


def test_lines_come_now_and_then(clock: Clock) -> None:
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=100))
    reporter.start(["a"], {})
    reporter.begin("a")
    for step in range(100):
        clock.now += 1
        reporter.progress(step, 100, "training")
    assert len(lines(out)) == 1 + 4


def test_without_times_in_the_recipe_only_what_is_at_work_is_estimated(clock: Clock) -> None:
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=100))
    reporter.start(["pictures", "predict"], {"elsewhere": 100})
    reporter.end("pictures", 0.1)
    reporter.begin("predict")
    for done in (0, 12, 25):
        clock.now += 30
        reporter.progress(done, 50, f"{done} of 50 shards")
    assert lines(out)[1:] == [
        "predict: starting",
        "predict: 0%, 0 of 50 shards",
        "predict: 24%, 12 of 50 shards, 3:10 left of predict",
        "predict: 50%, 25 of 50 shards, 1:30 left of predict",
    ]


def test_quiet_says_nothing_and_a_terminal_gets_bars(clock: Clock) -> None:
    reporter = Reporter(quiet=True)
    reporter.start(["a"], {})
    reporter.begin("a")
    reporter.progress(0, 0, "nothing to do")
    reporter.end("a", 1.0)
    reporter.stop()
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=100, force_terminal=True))
    reporter.start(["a", "b"], {})
    reporter.begin("a")
    reporter.progress(1, 2, "half of it")
    reporter.end("a", 1.0)
    reporter.stop()
    assert "done" in out.getvalue() and "\x1b[" in out.getvalue()


def test_notes_are_printed_as_they_are_written() -> None:
    out = io.StringIO()
    Reporter(Console(file=out, width=20)).notes("build", ["class [red] of 3 [/] words and more", "b"])
    assert lines(out) == ["note   build: class [red] of 3 [/] words and more", "note   build: b"]


def test_a_loss_is_said_and_the_estimate_does_not_grow_while_it_is_made_up_for(clock: Clock) -> None:
    out = io.StringIO()
    reporter = Reporter(Console(file=out, width=300))
    reporter.start(["a"], {"a": 100})
    reporter.begin("a")
    clock.now += 50
    reporter.progress(1, 4, "1 of 4 shards")
    failure = Failure(message="killed", who="actor 2", shard="s-1", host="w2", pid=7, redone="shard s-1 is done again")
    reporter.restarted("a", replace(failure, awaited="1 of 2 actors are ready, the others are starting"))
    for _ in range(2):
        clock.now += 300
        reporter.progress(1, 4, "1 of 4 shards; waiting for 1 of 2 actors to start, for 300 s")
    clock.now += 21
    reporter.progress(2, 4, "2 of 4 shards")
    waiting = (
        "a: 25%, 1 of 4 shards; waiting for 1 of 2 actors to start, for 300 s, 2:09 left in total after the recovery"
    )
    assert lines(out)[1:] == [
        "a: 25%, 1 of 4 shards, 2:09 left in total",
        "a: actor 2 (process 7 on w2) was replaced at shard s-1: killed",
        "a: shard s-1 is done again; 1 of 2 actors are ready, the others are starting",
        waiting,
        waiting,
        "a: 50%, 2 of 4 shards, 0:50 left in total",
    ]
