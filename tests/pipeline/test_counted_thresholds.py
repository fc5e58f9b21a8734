"""A sweep over background thresholds, read off counts, against labels made at each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.pipeline.chain import TINY, copy_upstream, run, tiny
from tests.pipeline.conftest import Finished
from tuning.search_space import Sweep, load_sweep
from tuning.sweep_result import read_folds
from tuning.sweep_trial import RESULT, SCORE, run_trial
from wsss.ops.confusion import activation_rates

pytestmark = pytest.mark.slow

WALK = '[stages.evaluate_walk]\nkind = "evaluate"\ninputs = { records = "make_scores" }\nsplits = ["train", "val"]\n'
SWEEP = """
[sweep]
name = "cuts"
recipe = "tiny.toml"
metric = "evaluate_walk"
[fixed]
make_pseudo_labels.refine = "none"
[space]
make_pseudo_labels.background_threshold = { low = 0.00390625, high = 0.99609375, step = 0.00390625 }
"""
SETTING = "make_pseudo_labels.background_threshold"


@pytest.fixture(scope="module")
def sweep(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("cuts")
    (folder / "tiny.toml").write_text(TINY.read_text() + WALK)
    (folder / "cuts.toml").write_text(SWEEP)
    copy_upstream(finished.recipe.instance("make_pseudo_labels"), folder / "runs")
    sweep = load_sweep(folder / "cuts.toml", [f"runtime.runs={folder / 'runs'}"])
    assert run(sweep.base).executed == ["evaluate_walk"]
    return sweep


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("threshold", [1 / 256, 0.25, 79 / 256, 0.5, 255 / 256])
def test_counts_give_what_labels_without_a_crf_would(sweep: Sweep, threshold: float, split: str) -> None:
    counted = read_folds(sweep.base.instance("evaluate_walk").path, split=split, threshold=threshold)
    overrides = [f"{SETTING}={threshold}", "make_pseudo_labels.refine=none"]
    labels = tiny(sweep.base.runtime.runs, *overrides)
    run(labels, first="make_pseudo_labels", last="make_pseudo_labels")
    record = run(labels, first="evaluate_pseudo_labels", last="evaluate_pseudo_labels").records[
        "evaluate_pseudo_labels"
    ]
    made = read_folds(labels.instance("evaluate_pseudo_labels").path, split=split)
    assert all(torch.equal(a, b) for a, b in zip(counted, made, strict=True))
    rates = (record.metrics[f"{split}.over_activation"], record.metrics[f"{split}.under_activation"])
    assert rates == activation_rates(counted[0] + counted[1])


def test_a_trial_runs_no_stage_and_makes_no_labels(sweep: Sweep) -> None:
    store = Path(sweep.base.runtime.runs) / "store"
    before = {path.name for path in store.iterdir()}
    for threshold in (0.125, 0.25, 0.375, 0.5, 0.625):
        report = run_trial(sweep, {SETTING: threshold}, "local", {})
        assert report[RESULT]["state"] == "done" and report[RESULT]["executed"] == ()
        folds = read_folds(sweep.base.instance("evaluate_walk").path, split="val", threshold=threshold)
        assert report[SCORE] == pytest.approx(_mean_iou(folds[0] + folds[1]), abs=1e-12)
    assert {path.name for path in store.iterdir()} == before


def _mean_iou(confusion: torch.Tensor) -> float:
    found = [
        int(confusion[c, c]) / union
        for c in range(len(confusion))
        if (union := int(confusion[c].sum() + confusion[:, c].sum() - confusion[c, c])) > 0
    ]
    return sum(found) / len(found)
