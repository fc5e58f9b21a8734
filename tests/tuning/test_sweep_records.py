from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.records import RunRecord
from tests.tuning.sweep_files import THRESHOLD, loaded
from tuning.search_space import Sweep
from tuning.sweep_records import Recorder
from tuning.sweep_result import Trial
from wsss.contract.runtime import PipelineRecord


class Tracked:
    """A tracker that notes what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.pipelines: list[float] = []
        self.started: list[float] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def stage_finished(self, pipeline: PipelineRecord, record: RunRecord) -> None:
        self.stages.append((str(pipeline.settings[THRESHOLD]), record.instance))
        self.started.append(pipeline.started)

    def pipeline_finished(self, pipeline: PipelineRecord, metrics: dict[str, float], artifacts: dict[str, str]) -> None:
        assert self.may_go_on.wait(timeout=30)
        assert threading.current_thread() is not threading.main_thread(), "a trial would wait for it"
        self.pipelines.append(float(str(pipeline.settings[THRESHOLD])))


def sweep_of(folder: Path) -> Sweep:
    space = f"[space]\n{THRESHOLD} = {{ choices = [0.2, 0.3, 0.4] }}\nmake_scores.beta = {{ choices = [5.0, 10.0] }}"
    return loaded(folder, space, overrides=(f"runtime.runs={folder / 'runs'}",))


def trial_of(number: int, threshold: float, *, beta: float = 5.0) -> Trial:
    fold = torch.eye(3, dtype=torch.int64)
    values = {THRESHOLD: threshold, "make_scores.beta": beta}
    return Trial(number=number, values=values, state="done", folds=(fold, fold))


def finished(sweep: Sweep, trial: Trial, *names: str, at: float = 0.0) -> None:
    """Write run records of instances of a trial; each took a second and was finished `at` that time."""
    recipe = sweep.trial_recipe(sweep.trial_overrides(trial.values))
    for name in names:
        instance = recipe.instance(name)
        instance.path.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {"settings": {}, "upstream": {}, "metrics": {}, "tables": {}, "artifacts": {}}
        record = RunRecord(
            recipe="base",
            instance=name,
            kind=instance.stage.kind,
            fingerprint=instance.fingerprint,
            git_commit="",
            seconds=1.0,
            finished=at,
            **given,
        )
        instance.write_run_record(record)


def test_trials_are_recorded_in_their_order_and_a_shared_stage_once(tmp_path: Path) -> None:
    sweep, tracked = sweep_of(tmp_path), Tracked()
    trials = [trial_of(1, 0.4), trial_of(2, 0.2), trial_of(3, 0.3, beta=10.0)]
    for one in trials:
        finished(sweep, one, "make_scores", "make_pseudo_labels")
    with Recorder(sweep, tracked) as recorder:  # type: ignore[arg-type]
        for one in trials:
            recorder.put(one)
    assert tracked.pipelines == [0.4, 0.2, 0.3]
    labels, scores = "make_pseudo_labels", "make_scores"
    assert tracked.stages == [("0.4", scores), ("0.4", labels), ("0.2", labels), ("0.3", scores), ("0.3", labels)]


def test_a_trial_started_when_its_first_own_stage_did(tmp_path: Path) -> None:
    sweep, tracked = sweep_of(tmp_path), Tracked()
    trials = [trial_of(1, 0.4), trial_of(2, 0.2)]
    finished(sweep, trials[0], "make_scores", at=1001.0)
    for number, one in enumerate(trials):
        finished(sweep, one, "make_pseudo_labels", at=1005.0 + 10 * number)
    with Recorder(sweep, tracked) as recorder:  # type: ignore[arg-type]
        for one in trials:
            recorder.put(one)
    assert tracked.started == [1000.0, 1000.0, 1014.0]


def test_a_stop_waits_for_the_trial_at_work_and_for_no_other(tmp_path: Path) -> None:
    tracked = Tracked()
    tracked.may_go_on.clear()
    with pytest.raises(KeyboardInterrupt), Recorder(sweep_of(tmp_path), tracked) as recorder:  # type: ignore[arg-type]
        for number, threshold in enumerate((0.4, 0.2, 0.3), start=1):
            recorder.put(trial_of(number, threshold))
        threading.Timer(0.3, tracked.may_go_on.set).start()
        raise KeyboardInterrupt
    assert len(tracked.pipelines) <= 1


def test_an_error_of_a_record_is_not_lost(tmp_path: Path) -> None:
    class Broken(Tracked):
        def pipeline_finished(self, *given: Any) -> None:
            raise RuntimeError("no tracking")

    with pytest.raises(RuntimeError, match="no tracking"), Recorder(sweep_of(tmp_path), Broken()) as recorder:  # type: ignore[arg-type]
        recorder.put(trial_of(1, 0.4))
