from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.sweep_files import SWEEP, loaded
from tuning.early_stopping import EPOCH, VALIDATION, scheduler_of, validations

SEARCHED = "[space]\ntrain_classifier.learning_rate = { low = 0.001, high = 0.1 }\n"
SPACE = "[fixed]\ntrain_classifier.validate_every = 1\n" + SEARCHED


def test_rungs_are_epochs_and_the_worst_of_a_rung_stop(tmp_path: Path) -> None:
    class OfTune:
        def __init__(self, name: str) -> None:
            self.trial_id = name

    settings = 'stop_by = "train_classifier"\ngrace_epochs = 2\nreduction_factor = 2\n'
    fixed = SPACE.replace("[space]", "train_classifier.num_epochs = 8\n[space]")
    scheduler: Any = scheduler_of(loaded(tmp_path, fixed, sweep=SWEEP + settings))
    scheduler.set_search_properties(None, None)
    answers = {}
    for name, score in (("good", 0.9), ("bad", 0.2), ("better", 0.95)):
        one: Any = OfTune(name)
        scheduler.on_trial_add(None, one)
        answers[name] = [scheduler.on_trial_result(None, one, {EPOCH: epoch, VALIDATION: score}) for epoch in (1, 2, 8)]
    assert answers == {"good": ["CONTINUE"] * 3, "bad": ["CONTINUE", "STOP", "STOP"], "better": ["CONTINUE"] * 3}


@pytest.mark.parametrize(
    ("stop_by", "folds"), [("train_classifier", ""), ("train_classifier_fold1", "train_classifier.folds = 2\n")]
)
def test_the_longest_training_of_a_case_is_not_stopped_at_its_end(tmp_path: Path, stop_by: str, folds: str) -> None:
    cases = "[cases.length]\nshort = { train_classifier.num_epochs = 2 }\nlong = { train_classifier.num_epochs = 9 }\n"
    fixed = SPACE.replace("[space]", folds + "[space]") + cases
    scheduler: Any = scheduler_of(loaded(tmp_path, fixed, sweep=SWEEP + f'stop_by = "{stop_by}"\n'))
    assert scheduler._max_t == 10


def test_every_trial_ends_by_itself_if_nothing_is_watched(tmp_path: Path) -> None:
    assert scheduler_of(loaded(tmp_path, SPACE)) is None


def test_validations_are_read_while_a_training_runs_and_afterwards(tmp_path: Path) -> None:
    assert validations(tmp_path) == []
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "val.mean_average_precision": 0.5}]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest.json").write_text(json.dumps({"step": 4, "history": rows}))
    assert validations(tmp_path) == [(2, 0.5)]
    rows.append({"epoch": 4, "val.mean_iou": 0.75})
    (tmp_path / "outcome.json").write_text(json.dumps({"metrics": {}, "tables": {"history": rows}}))
    assert validations(tmp_path) == [(2, 0.5), (4, 0.75)]
