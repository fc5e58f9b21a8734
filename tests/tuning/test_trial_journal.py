from __future__ import annotations

from pathlib import Path

import pytest

from tests.tuning.sweep_files import SWEEP, THRESHOLD, loaded
from tuning.search_space import Sweep
from tuning.trial_journal import JOURNAL, TrialJournal, key_of

SPACE = f"[space]\n{THRESHOLD} = {{ low = 0.1, high = 0.5, step = 0.1 }}"


def sweep_of(folder: Path, space: str = SPACE, *overrides: str) -> Sweep:
    return loaded(folder, space, sweep=SWEEP, overrides=(f"runtime.runs={folder / 'runs'}", *overrides))


def test_a_second_start_finds_the_settings_in_their_order(tmp_path: Path) -> None:
    journal = TrialJournal(sweep_of(tmp_path))
    given = [{THRESHOLD: value} for value in (0.30000000000000004, 0.1, 0.5)]
    for number, one in enumerate(given, start=1):
        journal.begun(number, one)
    journal.stopped_early(2, {"epoch": 3})
    again = TrialJournal(sweep_of(tmp_path, SPACE, "sweep.num_trials=40", "sweep.max_concurrent=2"))
    assert again.suggestions == given, "more trials, or more at the same time, continue the same search"
    assert again.stopped() == {key_of(given[1]): {"epoch": 3}}
    again.begun(2, given[1])
    assert again.stopped(), "the same setting is still the one that was stopped"


@pytest.mark.parametrize("change", ["sweep.seed=9", "make_scores.radius=3", "recipe.seed=4"])
def test_another_search_starts_anew(tmp_path: Path, change: str) -> None:
    TrialJournal(sweep_of(tmp_path)).begun(1, {THRESHOLD: 0.1})
    assert TrialJournal(sweep_of(tmp_path, SPACE, change)).suggestions == []
    other = SPACE.replace("0.5", "0.4")
    assert TrialJournal(sweep_of(tmp_path, other)).suggestions == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"identity": "x"}'])
def test_a_file_that_is_none_of_ours_is_as_if_there_were_none(tmp_path: Path, content: str) -> None:
    sweep = sweep_of(tmp_path)
    sweep.folder.mkdir(parents=True)
    (sweep.folder / JOURNAL).write_text(content)
    assert TrialJournal(sweep).suggestions == []


def test_trials_that_began_out_of_order_are_kept_up_to_the_first_gap(tmp_path: Path) -> None:
    journal = TrialJournal(sweep_of(tmp_path))
    journal.begun(1, {THRESHOLD: 0.1})
    journal.begun(3, {THRESHOLD: 0.2})
    assert TrialJournal(sweep_of(tmp_path)).suggestions == [{THRESHOLD: 0.1}]
