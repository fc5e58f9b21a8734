from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shards.records import RunRecord
from tests.tuning.sweep_files import loaded
from tuning.recorded_times import RecordedTimes
from tuning.search_space import Sweep
from wsss.pipeline.recipe import dotted_settings


def sweep_of(folder: Path, *overrides: str) -> Sweep:
    space = "[space]\nmake_pseudo_labels.background_threshold = { choices = [0.2, 0.3] }"
    return loaded(folder, space, overrides=(f"runtime.runs={folder / 'runs'}", *overrides))


def recorded(sweep: Sweep, name: str, *, seconds: float, finished: float = 1.0, **metrics: float) -> None:
    instance = sweep.base.instance(name)
    record: Any = RunRecord(
        recipe="base",
        instance=name,
        kind=instance.stage.kind,
        fingerprint=instance.fingerprint,
        settings=dotted_settings(instance),
        upstream={},
        git_commit="",
        metrics={key.replace("_", "."): value for key, value in metrics.items()},
        tables={},
        artifacts={},
        seconds=seconds,
        finished=finished,
    )
    instance.path.mkdir(parents=True)
    instance.write_run_record(replace(record))


def test_the_record_with_the_fewest_differing_settings_counts_then_the_latest(tmp_path: Path) -> None:
    recorded(sweep_of(tmp_path, "make_scores.beta=7.0", "make_scores.radius=9"), "make_scores", seconds=50, finished=9)
    recorded(sweep_of(tmp_path, "make_scores.beta=7.0"), "make_scores", seconds=20, finished=1)
    recorded(sweep_of(tmp_path, "make_scores.beta=8.0"), "make_scores", seconds=30, finished=2)
    sweep = sweep_of(tmp_path)
    found = RecordedTimes(tmp_path / "runs").of(sweep.base.instance("make_scores"), sweep.base)
    assert (found.seconds, found.source) == (30.0, "recorded")


def test_seconds_are_scaled_to_the_splits_that_are_planned(tmp_path: Path) -> None:
    recorded(sweep_of(tmp_path), "make_scores", seconds=100, records_train=60.0, records_val=20.0)
    sweep = sweep_of(tmp_path, "make_scores.splits=['val']", "make_pseudo_labels.splits=['val']")
    found = RecordedTimes(tmp_path / "runs").of(sweep.base.instance("make_scores"), sweep.base)
    assert found.seconds == pytest.approx(25.0)


def test_without_a_record_the_recipe_says_it_or_nothing_does(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "recipe.expected_seconds={make_scores = 12}")
    times = RecordedTimes(tmp_path / "runs")
    assert times.of(sweep.base.instance("make_scores"), sweep.base).seconds == 12.0
    unknown = times.of(sweep.base.instance("make_seeds"), sweep.base)
    assert unknown.seconds is None and "never ran" in unknown.source
