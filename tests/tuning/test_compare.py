"""Comparisons of evaluations that the tracker recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shards.records import RunRecord
from tests.tuning.mlflow_store import empty_store, tracker_of
from tuning.compare import CompareError, compare, comparison_table
from tuning.leaderboard import leaderboard
from wsss.contract.runtime import PipelineRecord
from wsss.report.tables import plain
from wsss.report.tables import records as values_of

Ious = dict[str, float | None]
A: Ious = {"background": 0.9, "cat": 0.5, "dog": 0.25, "bird": None, "[/] odd": 0.1}
B: Ious = {"background": 0.875, "cat": 0.75, "dog": 0.125, "bird": 0.5, "[/] odd": 0.1}


def evaluation(
    recipe: str,
    ious: Ious | None,
    *,
    digit: str,
    name: str = "evaluate",
    labels_given: bool = False,
    images: str = "val",
    count: int = 200,
    listed: str = "",
) -> RunRecord:
    rows = [
        {"class": cls, "class_id": i, "iou": iou, "accuracy": iou} for i, (cls, iou) in enumerate((ious or {}).items())
    ]
    return RunRecord(
        recipe=recipe,
        instance=name,
        kind="evaluate",
        fingerprint=digit * 64,
        settings={f"{name}.splits": [images], f"{name}.image_list": listed, f"{name}.list_use": "except"},
        upstream={},
        git_commit="unknown",
        metrics={"mean_iou": int(digit) / 16, "pixel_accuracy": 0.5, "labels_given": float(labels_given)}
        | {f"{images}.images": float(count)},
        tables={} if ious is None else {"per_class": rows},
        finished=1_700_000_000.0 + int(digit),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = empty_store(tmp_path_factory, "compare")
    tracker = tracker_of(folder)
    records = [
        evaluation("irn", A, digit="4"),
        evaluation("fickle", A, digit="1"),
        evaluation("fickle", B, digit="8"),
        evaluation("fickle", A, digit="9", name="evaluate_pseudo_labels", labels_given=True, images="train"),
        evaluation("flowers", {"rose": 0.5}, digit="2"),
        evaluation("small", A, digit="5", count=150),
        evaluation("with_list", A, digit="6", listed="/data/dev.txt"),
        evaluation("old", None, digit="3"),
    ]
    for record in records:
        tracker.stage_finished(PipelineRecord(record.recipe, record.fingerprint), record)
    return folder


@pytest.fixture
def uri(runs: Path) -> str:
    return f"sqlite:///{runs / 'mlflow.db'}"


def test_classes_are_sorted_by_the_size_of_their_difference_unknown_ones_last(runs: Path, uri: str) -> None:
    result = compare("irn", "fickle:evaluate", runs=runs, uri=uri)
    found = [(one.name, one.a, one.b, one.difference) for one in result.classes]
    assert found == [
        ("cat", 0.5, 0.75, 0.25),
        ("dog", 0.25, 0.125, -0.125),
        ("background", 0.9, 0.875, pytest.approx(-0.025)),
        ("[/] odd", 0.1, 0.1, 0.0),
        ("bird", None, 0.5, None),
    ]
    assert (result.a.metrics["mean_iou"], result.b.metrics["mean_iou"]) == (0.25, 0.5)


def test_a_name_that_fits_several_means_the_latest_real_segmentation_and_a_note_says_so(runs: Path, uri: str) -> None:
    result = compare("irn", "fickle", runs=runs, uri=uri)
    assert result.b.fingerprint == "8" * 64
    assert result.notes == (f"fickle fits 3 evaluations; the latest is used, fickle:evaluate ({result.b.run_id[:8]})",)


def test_run_ids_name_one_evaluation_without_a_note(runs: Path, uri: str) -> None:
    ids = {row.fingerprint[0]: row.run_id for row in leaderboard(runs, uri=uri, everything=True)}
    result = compare(ids["1"], ids["8"][:10], runs=runs, uri=uri)
    assert (result.a.fingerprint[0], result.b.fingerprint[0], result.notes) == ("1", "8", ())


def test_results_over_different_images_are_refused(runs: Path, uri: str) -> None:
    message = (
        r"different images: irn:evaluate .* over 200 images of val, fickle:evaluate_pseudo_labels .* images of train"
    )
    with pytest.raises(CompareError, match=message):
        compare("irn", "fickle:evaluate_pseudo_labels", runs=runs, uri=uri)
    with pytest.raises(CompareError, match=r"over 200 images of val, small:evaluate .* over 150 images of val;"):
        compare("irn", "small", runs=runs, uri=uri)
    with pytest.raises(CompareError, match=r"over 200 images of val, with_list:evaluate .* of val, without dev.txt;"):
        compare("irn", "with_list", runs=runs, uri=uri)


def test_what_cannot_be_compared_is_explained(runs: Path, uri: str, tmp_path: Path) -> None:
    with pytest.raises(CompareError, match=r"'irm'.* there are: fickle:evaluate, fickle:evaluate_pseudo_labels, flow"):
        compare("irm", "fickle", runs=runs, uri=uri)
    with pytest.raises(CompareError, match="are the same evaluation"):
        compare("irn", "irn:evaluate", runs=runs, uri=uri)
    with pytest.raises(CompareError, match=r"no class in common: background, cat.* against rose"):
        compare("irn", "flowers", runs=runs, uri=uri)
    with pytest.raises(CompareError, match=r"old:evaluate .* has no table 'per_class'"):
        compare("irn", "old", runs=runs, uri=uri)
    with pytest.raises(CompareError, match="there are: none yet"):
        compare("irn", "old", runs=tmp_path, uri=f"sqlite:///{tmp_path / 'none.db'}")


def test_the_table_shows_the_overall_numbers_then_the_classes(runs: Path, uri: str) -> None:
    table = comparison_table(compare("irn", "fickle:evaluate", runs=runs, uri=uri))
    cells = [tuple(re.split(r"  +", line.strip())) for line in plain(table).splitlines()[2:9]]
    assert cells == [
        ("mean IoU", "25.00", "50.00", "+25.00"),
        ("pixel accuracy", "50.00", "50.00", "+0.00"),
        ("cat", "50.00", "75.00", "+25.00"),
        ("dog", "25.00", "12.50", "-12.50"),
        ("background", "90.00", "87.50", "-2.50"),
        ("[/] odd", "10.00", "10.00", "+0.00"),
        ("bird", "-", "50.00", "-"),
    ]
    assert values_of(table)[2] == {"name": "cat", "of": "class", "a": 0.5, "b": 0.75, "difference": 0.25}
    assert values_of(table)[0]["of"] == "all classes"
