from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tuning.sweep_result import SweepResult, Trial, choose, front, mean_iou, read_folds
from wsss.report.tables import records
from wsss.stages.evaluation.counts import counts_path, save_threshold_counts


def trial(number: int, *folds: list[list[int]], state: str = "done") -> Trial:
    matrices = tuple(torch.tensor(fold) for fold in folds)
    return Trial(number=number, values={"a.b": number / 10}, state=state, reason="why", executed=("x",), folds=matrices)


# Mean IoU of [[a, b], [c, d]]: (a / (a + b + c) + d / (d + b + c)) / 2.
GOOD_ON_0 = trial(1, [[9, 1], [0, 10]], [[5, 5], [5, 5]])
GOOD_ON_1 = trial(2, [[6, 4], [4, 6]], [[7, 3], [0, 10]])
EVEN = trial(3, [[8, 2], [2, 8]], [[7, 3], [3, 7]])
PRUNED = trial(4, state="pruned")


def test_a_setting_is_scored_on_the_fold_that_did_not_choose_it() -> None:
    choice = choose([PRUNED, GOOD_ON_0, GOOD_ON_1, EVEN])
    assert choice is not None
    assert [one.number for one in choice.chosen] == [1, 2]
    # Fold 0 with trial 2, fold 1 with trial 1: [[6, 4], [4, 6]] + [[5, 5], [5, 5]] = [[11, 9], [9, 11]].
    assert choice.mean_iou == pytest.approx(11 / 29)
    # Over all images: [[14, 6], [5, 15]], [[13, 7], [4, 16]] and [[15, 5], [5, 15]].
    assert choice.best.number == 3
    assert choice.best.mean_iou == pytest.approx(15 / 25)
    assert choice.mean_iou < min(one.mean_iou or 0 for one in (GOOD_ON_0, GOOD_ON_1, EVEN)), "no best case is reported"


def test_equal_trials_give_the_earlier_one_and_its_own_score() -> None:
    choice = choose([EVEN, trial(7, *(fold.tolist() for fold in EVEN.folds))])
    assert choice is not None
    assert {choice.best.number, *(one.number for one in choice.chosen)} == {3}
    assert choice.mean_iou == EVEN.mean_iou


def test_without_a_finished_trial_there_is_no_choice() -> None:
    assert choose([PRUNED]) is None


def test_folds_are_read_from_the_files_of_evaluate(tmp_path: Path) -> None:
    (tmp_path / "confusion.val.fold0.csv").write_text("1,2,3\n4,5,6\n7,8,9")
    (tmp_path / "confusion.val.fold1.csv").write_text("0,0,0\n0,12345678901,0\n0,0,0")
    first, second = read_folds(tmp_path, split="val")
    assert first.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert second[1, 1] == 12345678901


def test_folds_at_a_threshold_are_read_from_the_counts_of_evaluate(tmp_path: Path) -> None:
    folds = [np.zeros((3, 3, 256), np.int64) for _ in range(2)]
    folds[0][0, 2, 64], folds[0][2, 2, 63], folds[1][1, 2, 255] = 5, 7, 2**40
    save_threshold_counts(counts_path(tmp_path, "val"), folds)
    first, second = read_folds(tmp_path, split="val", threshold=0.25)
    assert first.tolist() == [[0, 0, 5], [0, 0, 0], [7, 0, 0]]
    assert second[1, 2] == 2**40
    assert mean_iou(read_folds(tmp_path, split="val", threshold=63 / 256)) == pytest.approx(7 / (7 + 5 + 2**40) / 3)
    with pytest.raises(ValueError, match="not a multiple of 1/256"):
        read_folds(tmp_path, split="val", threshold=0.3)


def test_files_have_the_content_of_the_table(tmp_path: Path) -> None:
    trials = (GOOD_ON_0, GOOD_ON_1, EVEN, PRUNED)
    result = SweepResult(
        name="search",
        recipe="base",
        metric="evaluate",
        split="val",
        trials=trials,
        base_executed=("build_shards", "make_cams"),
        base_reused=(),
        choice=choose(trials),
        best_overrides=("a.b=0.2", 'a.c="none"'),
        interval=(0.3, 0.45),
        importance={"a.b": 0.75, "a.c": 0.25},
    )
    assert result.executed == 2 + 4
    assert result.best_command == "--set a.b=0.2 --set 'a.c=\"none\"'"
    files = result.write(tmp_path)
    text = Path(files["sweep.md"]).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert [row.split(" | ")[0] for row in rows] == ["| 3", "| 1", "| 2", "| 4"], "best first"
    assert "| pruned | – | – |" in rows[-1]
    assert "trial 1 was chosen on fold 0 and scored on fold 1, trial 2 the reverse" in text
    content = json.loads(Path(files["sweep.json"]).read_text())
    assert content["two_fold"] == {
        "mean_iou": pytest.approx(11 / 29),
        "interval": [0.3, 0.45],
        "chosen_on_fold": [1, 2],
    }
    assert ", 95 % interval 30.00 to 45.00 (trial 1" in text
    assert "a setting explains: a.b 75 %, a.c 25 %" in text
    assert content["best"] == {"trial": 3, "set": ["a.b=0.2", 'a.c="none"']}
    assert content["trials"][3]["mean_iou"] is None


def test_a_sweep_with_other_results_replaces_no_file_of_an_earlier_one(tmp_path: Path) -> None:
    first, second = (
        SweepResult(
            name="search",
            recipe="base",
            metric="evaluate",
            split="val",
            trials=trials,
            base_executed=(),
            base_reused=(),
            choice=choose(trials),
            best_overrides=(),
        )
        for trials in ((GOOD_ON_0, EVEN), (GOOD_ON_1, EVEN))
    )
    first.write(tmp_path, {"best.toml": b"first", "importance.png": b"picture"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert first.keep_earlier(tmp_path) is None, "the same trials again"
    kept = second.keep_earlier(tmp_path)
    assert kept is not None
    stamp = kept.stem.removeprefix("sweep-")
    second.write(tmp_path, {"best.toml": b"second"})
    for name, content in before.items():
        stem, _, suffix = name.partition(".")
        assert (tmp_path / f"{stem}-{stamp}.{suffix}").read_bytes() == content
    assert (tmp_path / "best.toml").read_bytes() == b"second" and not (tmp_path / "importance.png").exists()


def test_a_grid_keeps_its_order_and_its_text_says_that_it_is_a_grid() -> None:
    result = SweepResult(
        name="table",
        recipe="base",
        metric="evaluate",
        split="val",
        trials=(GOOD_ON_0, GOOD_ON_1, EVEN),
        base_executed=(),
        base_reused=(),
        choice=choose([GOOD_ON_0, GOOD_ON_1, EVEN]),
        best_overrides=("a.b=0.3",),
        grid=True,
    )
    assert [row[0] for row in result.table().rows] == [1, 2, 3], "in the order of the grid"
    assert any("every combination was tried" in line for line in result.sentences())
    assert not any("the search was led" in line for line in result.sentences())


def test_the_front_has_the_trials_that_none_beats_in_both() -> None:
    def costing(trial: Trial, number: int, seconds: float) -> Trial:
        return replace(trial, number=number, seconds=seconds)

    best = max((GOOD_ON_0, GOOD_ON_1, EVEN), key=lambda one: one.mean_iou or 0.0)
    worst = min((GOOD_ON_0, GOOD_ON_1, EVEN), key=lambda one: one.mean_iou or 0.0)
    assert (best.mean_iou or 0.0) > (worst.mean_iou or 0.0)
    slow, fast = costing(best, 1, 30.0), costing(worst, 2, 10.0)
    beaten, equal = costing(worst, 3, 20.0), costing(best, 4, 30.0)
    trials = (beaten, equal, fast, slow, PRUNED)
    assert [trial.number for trial in front(trials)] == [1, 2]
    result = SweepResult(
        name="search",
        recipe="base",
        metric="evaluate",
        split="val",
        trials=trials,
        base_executed=(),
        base_reused=(),
        choice=choose(trials),
        best_overrides=(),
        objectives=("mean_iou", "seconds"),
    )
    rows = {row["trial"]: (row["seconds"], row["front"]) for row in records(result.table())}
    assert rows[1] == (30.0, True) and rows[2] == (10.0, True) and rows[3] == (20.0, False)
    assert any(line.endswith("in both mean IoU and seconds: trials 1, 2") for line in result.sentences())
