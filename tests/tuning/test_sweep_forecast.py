from __future__ import annotations

from pathlib import Path

from tests.tuning.sweep_files import COUNTED, SWEEP, THRESHOLD, loaded
from tuning.forecast_page import duration, forecast_page
from tuning.search_space import Sweep
from tuning.sweep_forecast import Forecast, forecast
from wsss.report.tables import plain

TIMES = "recipe.expected_seconds={train_affinity = 50, make_seeds = 6, make_scores = 10, make_pseudo_labels = 3, "
TIMES += "evaluate_pseudo_labels = 1, evaluate_walk = 1, train_classifier = 20, make_cams = 5, build_shards = 2}"
SPACE = f"""
[space]
make_seeds.foreground_threshold = {{ choices = [0.04, 0.2, 0.3] }}
{THRESHOLD} = {{ choices = [0.2, 0.3] }}
"""
"""The seeds' background threshold is 0.05, so that 0.04 does not fit."""


def sweep_of(folder: Path, space: str, *, sweep: str = SWEEP + 'method = "grid"\n') -> Sweep:
    return loaded(folder, space, sweep=sweep, overrides=(f"runtime.runs={folder / 'runs'}", TIMES))


def names(plan: Forecast) -> list[list[str]]:
    return [[one.name for one in trial.executes] for trial in plan.trials]


def test_a_grid_executes_each_upstream_once(tmp_path: Path) -> None:
    plan = forecast(sweep_of(tmp_path, SPACE))
    labels = ["make_pseudo_labels", "evaluate_pseudo_labels"]
    whole = ["make_seeds", "train_affinity", "make_scores", *labels]
    assert [one.name for one in plan.shared] == ["build_shards", "train_classifier", "make_cams"]
    assert names(plan) == [[], [], whole, labels, whole, labels]
    assert [bool(trial.pruned) for trial in plan.trials] == [True, True, False, False, False, False]
    assert "must be above" in plan.trials[0].pruned
    assert all(trial.certain for trial in plan.trials)
    assert not (tmp_path / "runs").exists(), "nothing is written"


def test_settings_are_told_apart_by_what_a_new_value_costs(tmp_path: Path) -> None:
    costs = {one.name: one for one in forecast(sweep_of(tmp_path, SPACE)).settings}
    assert not costs["make_seeds.foreground_threshold"].cheap
    assert costs[THRESHOLD].cheap
    assert [one.name for one in costs[THRESHOLD].executes] == ["make_pseudo_labels", "evaluate_pseudo_labels"]


def test_without_times_a_setting_is_expensive_if_something_is_trained(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, SPACE, overrides=(f"runtime.runs={tmp_path / 'runs'}",))
    costs = {one.name: one.cheap for one in forecast(sweep).settings}
    assert costs == {"make_seeds.foreground_threshold": False, THRESHOLD: True}
    text = plain(forecast_page(sweep, forecast(sweep)).tables["trials"])
    assert "not known: it never ran" in text


def test_thresholds_read_off_counts_execute_nothing_after_the_first(tmp_path: Path) -> None:
    space = f"[space]\n{THRESHOLD} = {{ choices = [0.125, 0.25, 0.5] }}\nmake_scores.beta = {{ choices = [5.0, 10.0] }}"
    sweep = sweep_of(tmp_path, space, sweep=COUNTED.replace("[fixed]", 'method = "grid"\n[fixed]'))
    plan = forecast(sweep)
    made = ["make_scores", "evaluate_walk"]
    assert names(plan) == [made, made, [], [], [], []]
    text = plain(forecast_page(sweep, plan).tables["trials"])
    assert "nothing: the counts of evaluate_walk are read" in text
    assert "in all about 2 min of stages, 9 executions, 2 of them trainings" in text


def test_the_random_half_of_a_search_is_certain_and_the_rest_an_estimate(tmp_path: Path) -> None:
    plan = forecast(sweep_of(tmp_path, SPACE, sweep=SWEEP + "num_trials = 5\n"))
    assert [trial.certain for trial in plan.trials] == [True] * 3 + [False] * 2
    settings = [tuple(trial.values.values()) for trial in plan.trials]
    assert len(set(settings)) == 5, "no setting twice"


def test_durations_have_the_unit_that_people_use() -> None:
    assert [duration(seconds) for seconds in (0.4, 99, 100, 3600, 9000)] == ["0 s", "99 s", "2 min", "60 min", "2.5 h"]
