"""Which result a name means, where runs and trials of sweeps have results of the same name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuning.drawn_results import (
    BAD,
    CLASSES,
    GOOD,
    KEYS,
    OTHER,
    mask,
    rows_of_drawn,
    write_evaluation,
    write_predictions,
    write_samples,
)
from tuning.leaderboard import Row
from tuning.named_results import CompareError, choose_row, find_results


def row(run_id: str, *, sweep: str = "", finished: float, labels_given: bool = False) -> Row:
    return Row(
        run_id=run_id * 32, recipe="toy", instance="evaluate_walk", pipeline="c" * 64, fingerprint=run_id * 64,
        sweep=sweep, metrics={"mean_iou": 0.5}, image_set="val", labels_given=labels_given, supervision="",
        finished=finished,
    )  # fmt: skip


def test_a_name_means_a_run_and_not_a_later_trial_of_a_sweep() -> None:
    rows, notes = [row("1", finished=1.0), row("2", sweep="beta", finished=3.0), row("3", finished=2.0)], list[str]()
    assert choose_row("toy:evaluate_walk", rows, notes) == rows[2]
    assert notes == [
        "toy:evaluate_walk fits 3 evaluations; the latest that is no trial of a sweep is used, "
        "toy:evaluate_walk (33333333)"
    ]
    assert choose_row("2" * 8, rows, notes) == rows[1], "a trial goes by the id of its run"
    assert len(notes) == 1
    assert choose_row("toy", rows[1:2], notes) == rows[1], "if there is nothing else"


def test_label_maps_of_a_run_come_before_those_of_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = write_samples(tmp_path, mask, keys=KEYS, classes=CLASSES)
    made = {
        digit: write_predictions(tmp_path, draw, keys=KEYS, samples=samples, recipe="good", digit=digit)
        for digit, draw in (("2", GOOD), ("1", BAD), ("3", OTHER))
    }
    for digit in made:
        write_evaluation(tmp_path, made[digit], recipe="good", digit=digit)
    rows = [replace(one, sweep="" if one.run_id[0] == "2" else "beta") for one in rows_of_drawn(tmp_path)]
    monkeypatch.setattr("tuning.named_results.leaderboard", lambda *args, **options: rows)
    (found,) = find_results(["good:predict"], runs=tmp_path, uri="", notes=[])
    assert found.fingerprint == made["2"]["fingerprint"]
    rows.clear()
    notes: list[str] = []
    (found,) = find_results(["good:predict"], runs=tmp_path, uri="", notes=notes)
    assert "fits 3 results" in notes[0]
    with pytest.raises(CompareError, match="no evaluation is called 'good:predicted'"):
        find_results(["good:predicted"], runs=tmp_path, uri="", notes=[])
    folder = tmp_path / "store" / "make_agreed_labels-4"
    folder.mkdir()
    record = json.loads(next((tmp_path / "store").glob("predict-*/run.json")).read_text())
    (folder / "run.json").write_text(json.dumps(record | {"kind": "make_agreed_labels", "instance": "agreed"}))
    with pytest.raises(CompareError, match=r"good:agreed \(make_agreed_labels\) has labels with undecided pixels"):
        find_results(["good:agreed"], runs=tmp_path, uri="", notes=[])
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CompareError, match=r"notes.txt is a file, but no zip; a submission is the zip"):
        find_results([str(tmp_path / "notes.txt")], runs=tmp_path, uri="", notes=[])
