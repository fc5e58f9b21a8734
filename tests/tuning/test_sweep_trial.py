from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.session.same_code import own_identity
from shards.work_notes import note
from tuning.search_space import load_sweep
from tuning.sweep_trial import RESULT, SCORE, WORST, SharingRuntime, run_trial

RECIPE = """
[recipe]
name = "base"
[stages.build_shards]
source = "toy"
counts = { train = 8, val = 4 }
[stages.train_classifier]
pretrained = "none"
[stages.make_cams]
[stages.make_seeds]
[stages.train_affinity]
pretrained = "none"
[stages.make_scores]
[stages.make_pseudo_labels]
[stages.evaluate]
"""
SWEEP = """
[sweep]
name = "search"
recipe = "base.toml"
metric = "evaluate"
[space]
make_seeds.foreground_threshold = { low = 0.01, high = 0.5 }
"""


class Broken:
    """A runtime whose methods all fail."""

    def __init__(self) -> None:
        self.closed = 0

    def check(self, instances: Any) -> None: ...

    def map(self, instance: Any, stage: Any, progress: Any, *, on_restart: Any) -> None:
        raise OSError("the disk is full")

    def close(self) -> None:
        self.closed += 1


def tried(folder: Path, threshold: float) -> dict[str, Any]:
    (folder / "base.toml").write_text(RECIPE)
    (folder / "search.toml").write_text(SWEEP)
    sweep = load_sweep(folder / "search.toml", [f"runtime.runs={folder / 'runs'}"])
    return run_trial(sweep, {"make_seeds.foreground_threshold": threshold}, "local", {})


def test_settings_that_do_not_fit_together_are_pruned(tmp_path: Path) -> None:
    report = tried(tmp_path, 0.02)
    assert report[SCORE] == WORST
    assert report[RESULT]["state"] == "pruned"
    assert "make_seeds.foreground_threshold = 0.02 must be above" in report[RESULT]["reason"]
    assert not (tmp_path / "runs").exists()


def test_a_stage_that_fails_is_reported_and_ends_only_this_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken()
    note(sample="of earlier work")
    monkeypatch.setattr("tuning.sweep_trial.open_runtime", lambda *given, **named: broken)
    report = tried(tmp_path, 0.3)
    assert report[SCORE] == WORST
    assert report[RESULT]["state"] == "failed"
    reason = report[RESULT]["reason"]
    assert reason.startswith("build_shards: OSError: the disk is full; see ")
    assert "the disk is full" in Path(reason.rpartition(" ")[2]).read_text()
    assert broken.closed == 1


def test_a_sharing_runtime_releases_resources_after_every_stage_even_a_failed_one() -> None:
    broken = Broken()
    with pytest.raises(OSError, match="disk"):
        SharingRuntime(broken).map(None, None, None)  # type: ignore[arg-type]
    assert broken.closed == 1


def test_the_environment_of_the_driver_reaches_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.toml").write_text(RECIPE + 'title = "$WSSS_TEST_TITLE"\n')
    (tmp_path / "search.toml").write_text(SWEEP)
    monkeypatch.setenv("WSSS_TEST_TITLE", "pseudo labels")
    sweep = load_sweep(tmp_path / "search.toml")
    assert sweep.environment == {"WSSS_TEST_TITLE": "pseudo labels"}


def test_a_trial_on_a_node_with_other_code_does_not_run(tmp_path: Path) -> None:
    other = replace(own_identity(), host="head", values=own_identity().values | {"source digest": "aa"})
    (tmp_path / "base.toml").write_text(RECIPE)
    (tmp_path / "search.toml").write_text(SWEEP)
    sweep = load_sweep(tmp_path / "search.toml", [f"runtime.runs={tmp_path / 'runs'}"])
    report = run_trial(sweep, {"make_seeds.foreground_threshold": 0.2}, "local", {}, other)
    assert report[RESULT]["state"] == "failed"
    assert "a trial on " in report[RESULT]["reason"] and "source digest aa (driver)" in report[RESULT]["reason"]
    assert not (tmp_path / "runs" / "store").exists()
