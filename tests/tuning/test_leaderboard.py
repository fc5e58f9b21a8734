"""The leaderboard over a store that the tracker itself filled."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.tracking.outbox import Outbox
from shards.records import RunRecord
from tests.tuning.mlflow_store import empty_store, tracker_of
from tuning.leaderboard import (
    UnreadableError,
    _rows,
    leaderboard,
    leaderboard_table,
    recorded_table,
    result_folder,
)
from tuning.tracked_runs import StoredRun
from wsss.__main__ import main
from wsss.contract.runtime import PipelineRecord
from wsss.report.layout import fit
from wsss.report.tables import plain
from wsss.report.tables import records as values_of


def evaluation(recipe: str, *, iou: float, digit: str, labels_given: bool = False, name: str = "evaluate") -> RunRecord:
    return RunRecord(
        recipe=recipe,
        instance=name,
        kind="evaluate",
        fingerprint=digit * 64,
        settings={f"{name}.splits": ["train", "val"]},
        upstream={"predict": "0" * 64},
        git_commit="unknown",
        metrics={
            "mean_iou": iou,
            "mean_accuracy": iou + 0.1,
            "pixel_accuracy": iou + 0.2,
            "labels_given": float(labels_given),
        },
        tables={"per_class": [{"class": "cat", "class_id": 1, "iou": iou, "accuracy": None}]},
        finished=1_700_000_000.0 + int(digit),
        supervision="semi + boxes" if recipe == "fickle" else "",
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three recipes, pseudo labels, a sweep, a stage that is no evaluation, one reused result."""
    folder = empty_store(tmp_path_factory, "leaderboard")
    tracker = tracker_of(folder)
    irn = PipelineRecord("irn", "1" * 64)
    tracker.stage_finished(irn, evaluation("irn", iou=0.3, digit="1"))
    tracker.stage_finished(irn, evaluation("irn", iou=0.9, digit="2", labels_given=True, name="evaluate_pseudo_labels"))
    other_kind = replace(evaluation("irn", iou=0.99, digit="3", name="train_segmenter"), kind="train_segmenter")
    tracker.stage_finished(irn, other_kind)
    later = tracker_of(folder)
    later.stage_finished(PipelineRecord("irn", "4" * 64), evaluation("irn", iou=0.3, digit="1"))
    tracker.stage_finished(PipelineRecord("fickle", "5" * 64), evaluation("fickle", iou=0.6125, digit="5"))
    tracker.stage_finished(PipelineRecord("toy", "6" * 64, "thresholds"), evaluation("toy", iou=0.4, digit="6"))
    unscored = replace(
        evaluation("toy", iou=0.0, digit="7", name="evaluate_nothing"), metrics={"mean_iou": float("nan")}
    )
    tracker.stage_finished(PipelineRecord("toy", "6" * 64, "thresholds"), unscored)
    return folder


@pytest.fixture
def uri(runs: Path) -> str:
    return f"sqlite:///{runs / 'mlflow.db'}"


def test_segmentations_are_best_first_and_a_reused_result_is_listed_once(runs: Path, uri: str) -> None:
    rows = leaderboard(runs, uri=uri)
    assert [(row.name, row.metrics["mean_iou"]) for row in rows] == [
        ("fickle:evaluate", 0.6125),
        ("toy:evaluate", 0.4),
        ("irn:evaluate", 0.3),
    ]
    assert [row.pipeline[0] for row in rows] == ["5", "6", "4"], "a reused result counts for the latest pipeline"
    best = rows[0]
    assert best.metrics == {"mean_iou": 0.6125, "mean_accuracy": 0.7125, "pixel_accuracy": 0.8125}
    assert (best.image_set, best.labels_given, best.finished) == ("val", False, 1_700_000_005.0)
    assert [row.sweep for row in rows] == ["", "thresholds", ""]


def test_everything_adds_what_was_made_with_given_labels(runs: Path, uri: str) -> None:
    rows = leaderboard(runs, uri=uri, everything=True)
    assert [row.name for row in rows][:2] == ["irn:evaluate_pseudo_labels", "fickle:evaluate"]
    assert rows[0].labels_given
    assert len(rows) == 4


def test_the_table_is_ranked_and_in_percent(runs: Path, uri: str) -> None:
    table = leaderboard_table(leaderboard(runs, uri=uri))
    lines = [re.split(r"  +", line.strip()) for line in plain(table).splitlines() if "evaluate" in line]
    assert lines[0][:10] == ["1", "fickle", "evaluate", "61.25", "71.25", "81.25", "-", "-", "val", "-"]
    assert [line[9:12] for line in lines] == [
        ["-", "no", "semi + boxes"], ["thresholds", "no", "-"], ["-", "no", "-"],
    ], "results of older versions do not say what they were trained with"  # fmt: skip
    assert values_of(table)[0]["mean_iou"] == 0.6125
    assert values_of(table)[0]["pipeline"] == "5" * 64
    assert datetime.fromisoformat(values_of(table)[0]["finished"]).timestamp() == 1_700_000_005


def test_every_number_and_name_fits_80_columns(runs: Path, uri: str) -> None:
    shown = fit(leaderboard_table(leaderboard(runs, uri=uri, everything=True)), 80)
    assert max(map(len, shown)) <= 80
    words = " ".join(shown).split()
    assert {"evaluate_pseudo_labels", "thresholds", "61.25", "71.25", "81.25", "55555555"} <= set(words)


def names(runs: Path, uri: str, **options: Any) -> list[str]:
    table = leaderboard_table(leaderboard(runs, uri=uri, everything=True), **options)
    return [f"{row['recipe']} {row['mean_iou']}" for row in values_of(table)]


def test_rows_are_sorted_and_filtered_by_any_column(runs: Path, uri: str) -> None:
    assert names(runs, uri, sort="mean_iou") == ["irn 0.9", "fickle 0.6125", "toy 0.4", "irn 0.3"]
    assert names(runs, uri, sort="-mean_iou") == ["irn 0.3", "toy 0.4", "fickle 0.6125", "irn 0.9"]
    assert [name.split()[0] for name in names(runs, uri, sort="recipe")] == ["fickle", "irn", "irn", "toy"]
    assert names(runs, uri, sort="finished")[0] == "toy 0.4", "the latest first"
    assert names(runs, uri, where=["mean_iou>=0.4", "labels_given=no"]) == ["fickle 0.6125", "toy 0.4"]
    assert names(runs, uri, where=["recipe!=ir*", "sweep=threshold?"]) == ["toy 0.4"]
    assert names(runs, uri, where=["mean_iou_foreground > 0.1"]) == [], "a score that is not known fulfils nothing"
    for options, message in (
        ({"sort": "men_iou"}, r"--sort: there is no column 'men_iou'; did you mean mean_iou"),
        ({"where": ["colour=red"]}, r"--where: there is no column 'colour'"),
        ({"where": ["recipe"]}, r"--where 'recipe' is not a condition; write COLUMN, then"),
        ({"where": ["mean_iou>much"]}, r"'much' is not a number; scores are between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            names(runs, uri, **options)


def test_the_official_table_is_marked_and_takes_its_place_by_score(runs: Path, uri: str) -> None:
    found = names(runs, uri, published=True)
    assert found[:5] == ["irn 0.9", "fickle 0.6125", "cvl 0.4518", "toy 0.4", "VL-task1 0.3773"]
    assert len(found) == 4 + 10
    rows = values_of(leaderboard_table([], published=True))
    assert {(row["instance"], row["split"], row["run"]) for row in rows} == {("published", "LID test", None)}
    official = "45.18/59.62/80.46 37.73/60.15/82.98 37.34/54.87/83.64 36.24/68.27/84.10 31.90/46.07/82.63"
    scores = [[100 * row[name] for name in ("mean_iou", "mean_accuracy", "pixel_accuracy")] for row in rows[:5]]
    assert ["/".join(f"{score:.2f}" for score in three) for three in scores] == official.split()


def test_changed_settings_are_a_column(runs: Path, uri: str) -> None:
    described = runs / "fickle" / "results-55555555.json"
    described.parent.mkdir()
    described.write_text('{"changed_settings": {"make_seeds.theta": 0.35}}')
    rows = {row.recipe: row for row in leaderboard(runs, uri=uri)}
    assert (rows["fickle"].changed, rows["irn"].changed) == ({"make_seeds.theta": 0.35}, {})
    assert "make_seeds.theta = 0.35" in plain(leaderboard_table([rows["fickle"]]))
    assert names(runs, uri, where=["changed_settings=*theta*"]) == ["fickle 0.6125"]
    described.unlink()


def test_a_kept_evaluation_counts_for_the_latest_pipeline_that_names_it(tmp_path: Path) -> None:
    def run(run_id: str, tags: dict[str, str], **values: Any) -> StoredRun:
        return StoredRun(run_id=run_id, status="FINISHED", started=1.0, ended=2.0, tags=tags, **values)

    def pipeline(run_id: str, **more: str) -> StoredRun:
        return run(run_id, {"wsss.kind": "pipeline", "wsss.recipe": "toy", "wsss.pipeline": run_id * 32} | more)

    measured = {
        "wsss.kind": "evaluate",
        "wsss.recipe": "toy",
        "wsss.instance": "evaluate",
        "wsss.fingerprint": "f" * 64,
    }
    changed = 'predict.scales = [1.0, 0.5], predict.merge = "max"'
    stored = [
        pipeline("p1"),
        run("e1", measured | {"mlflow.parentRunId": "p1"}, metrics={"mean_iou": 0.5}, params={"splits": '["val"]'}),
        pipeline("p2", **{"wsss.kept.evaluate": "e1", "wsss.kept.gone": "e9", "wsss.changed_settings": changed}),
    ]
    (row,) = _rows(stored, tmp_path)
    assert (row.run_id, row.pipeline[:2], row.image_set) == ("e1", "p2", "val")
    assert row.changed == {"predict.scales": [1.0, 0.5], "predict.merge": "max"}


def rendered(runs: Path, uri: str) -> str:
    return plain(leaderboard_table(leaderboard(runs, uri=uri)))


def test_tables_are_read_as_the_rows_that_were_recorded(runs: Path, uri: str) -> None:
    row = leaderboard(runs, uri=uri)[0]
    expected = [{"class": "cat", "class_id": 1, "iou": 0.6125, "accuracy": None}]
    assert recorded_table(row.run_id, "per_class", runs=runs, uri=uri) == expected
    assert recorded_table(row.run_id, "per_planet", runs=runs, uri=uri) is None


def test_without_any_run_the_leaderboard_is_empty_says_so_and_creates_no_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert leaderboard(tmp_path, uri=uri) == []
    assert rendered(tmp_path, uri) == "Leaderboard\nno evaluated runs yet: wsss run RECIPE makes one\n"
    assert not list(tmp_path.iterdir())


def test_evaluations_that_are_not_shown_are_said_to_exist(
    runs: Path, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in leaderboard(runs, uri=uri, everything=True) if row.labels_given]
    table = plain(leaderboard_table([], hidden=len(rows)))
    assert "no evaluation without given labels yet; --all shows 1 evaluation with them" in table
    assert main(["leaderboard", "--runs", str(runs), "--tracking-uri", uri]) == 0
    assert "pseudo_labels" not in capsys.readouterr().out


def test_a_store_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(UnreadableError, match=f"MLflow at {uri} cannot be read.*start its server"):
        leaderboard(tmp_path, uri=uri)


def tracked(run_id: str, tags: dict[str, str], **values: Any) -> StoredRun:
    return StoredRun(run_id=run_id, status="FINISHED", started=1.0, ended=2.0, tags=tags, **values)


def measured(run_id: str, digit: str, *, parent: str = "") -> StoredRun:
    """The run of an evaluation of the walk."""
    tags = {"wsss.kind": "evaluate", "wsss.recipe": "toy", "wsss.instance": "evaluate_walk"}
    tags |= {"wsss.fingerprint": digit * 64} | ({"mlflow.parentRunId": parent} if parent else {})
    return tracked(run_id, tags, metrics={"mean_iou": 0.5}, params={"splits": '["val"]'})


def pipeline_run(digit: str, **more: str) -> StoredRun:
    tags = {"wsss.kind": "pipeline", "wsss.recipe": "toy", "wsss.pipeline": digit * 64}
    return tracked(f"p{digit}", tags | {f"wsss.{name.replace('__', '.')}": value for name, value in more.items()})


def test_a_result_of_a_run_and_of_a_sweep_is_the_run_s(tmp_path: Path) -> None:
    stored = [
        pipeline_run("1", kept__evaluate_walk="e1"),
        measured("e1", "a", parent="p2"),
        pipeline_run("2", sweep="thresholds", changed_settings="make_scores.beta = 5.0"),
        measured("e2", "b", parent="p3"),
        pipeline_run("3", sweep="thresholds"),
    ]
    rows = {row.run_id: row for row in _rows(stored, tmp_path)}
    assert (rows["e1"].sweep, rows["e1"].pipeline[0], rows["e1"].changed) == ("", "1", {})
    assert rows["e2"].sweep == "thresholds"


@pytest.mark.parametrize("known_by", ["the run's folder", "the trial's tags"])
def test_settings_that_an_evaluation_does_not_read_are_not_shown_as_its(known_by: str, tmp_path: Path) -> None:
    values = {"make_scores.beta": "5.0", "make_pseudo_labels.background_threshold": "0.25", "recipe.seed": "3"}
    behind = {"upstream__make_scores": "c" * 64, "upstream__evaluate_walk": "a" * 64}
    trial = pipeline_run("3", sweep="thresholds", **(behind if known_by == "the trial's tags" else {}))
    stored = [replace(trial, params=values), measured("e1", "a", parent="p3")]
    if known_by == "the run's folder":
        scores = {"kind": "make_scores", "fingerprint": "c" * 64, "seed": 0, "settings": {}, "upstream": {}}
        lineage = {
            "kind": "evaluate", "fingerprint": "a" * 64, "seed": 0, "settings": {"evaluate_walk.rule": "threshold"},
            "upstream": {"records": scores},
        }  # fmt: skip
        folder = result_folder(tmp_path, "a" * 64)
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text(json.dumps(lineage))
    (row,) = _rows(stored, tmp_path)
    assert row.changed == {"make_scores.beta": 5.0, "recipe.seed": 3}


def test_records_that_are_not_in_mlflow_are_named_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Outbox(tmp_path / "outbox").put({"time": 1.0})
    assert main(["leaderboard", "--runs", str(tmp_path), "--no-published"]) == 0
    printed = capsys.readouterr().out
    assert "no evaluated runs yet" in printed and "not in MLflow yet: 1 record of runs in" in printed
    assert main(["compare", "toy", "other", "--runs", str(tmp_path)]) == 1
    assert (
        "no evaluation is called 'toy'" in (said := capsys.readouterr().err) and "not in MLflow yet: 1 record" in said
    )
