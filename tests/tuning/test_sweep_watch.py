"""Numbers of trials: those of their first starts, whatever Tune does to its list."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from tests.tuning.sweep_files import loaded
from tuning.sweep_watch import Watch
from tuning.trial_journal import TrialJournal

SPACE = "[space]\nmake_pseudo_labels.background_threshold = { choices = [0.2, 0.3, 0.4, 0.5] }\n"
KEY = "make_pseudo_labels.background_threshold"


def of_tune(number: int) -> Any:
    value = f"0.{number + 1}"
    return SimpleNamespace(
        trial_id=f"id{number}", config={KEY: value}, last_result={"result": {"state": "pruned", "reason": value}}
    )


def test_a_trial_that_begins_again_keeps_its_number(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, SPACE, overrides=(f"runtime.runs={tmp_path / 'runs'}",))
    sweep.folder.mkdir(parents=True)
    journal = TrialJournal(sweep)
    recorder: Any = SimpleNamespace(put=lambda trial: None)
    watch = Watch(sweep, journal, recorder, Console(quiet=True))
    trials = [of_tune(number) for number in range(1, 5)]
    for one in trials:
        watch.on_trial_start(0, trials, one)
    second = trials[1]
    for one in (trials[0], trials[2]):
        watch.on_trial_complete(0, trials, one)
    moved = [one for one in trials if one is not second] + [second]  # as Tune does when a trial's process died
    watch.on_trial_start(0, moved, second)
    watch.on_trial_complete(0, moved, second)
    watch.on_trial_error(0, moved, trials[3])
    found = watch.results()
    assert [one.number for one in found] == [1, 2, 3, 4]
    assert [one.state for one in found] == ["pruned"] * 3 + ["failed"]
    assert [one.reason for one in found[:3]] == ["0.2", "0.3", "0.4"]
    assert [one[KEY] for one in journal.suggestions] == ["0.2", "0.3", "0.4", "0.5"]


def test_trials_of_an_earlier_start_keep_their_numbers_in_whatever_order_they_begin(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, SPACE, overrides=(f"runtime.runs={tmp_path / 'runs'}",))
    sweep.folder.mkdir(parents=True)
    recorder: Any = SimpleNamespace(put=lambda trial: None)
    trials = [of_tune(number) for number in range(1, 5)]
    for order in ((0, 1, 2), (1, 3, 0)):
        watch = Watch(sweep, TrialJournal(sweep), recorder, Console(quiet=True))
        for place in order:
            watch.on_trial_start(0, trials, trials[place])
        assert [one[KEY] for one in TrialJournal(sweep).suggestions][:3] == ["0.2", "0.3", "0.4"]
    assert [one[KEY] for one in TrialJournal(sweep).suggestions] == ["0.2", "0.3", "0.4", "0.5"]
