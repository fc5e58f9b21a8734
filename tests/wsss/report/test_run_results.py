from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.chain import NoTracker, pretend_trained, run, tiny
from wsss.__main__ import main
from wsss.contract.closed_output import ReaderGoneError
from wsss.pipeline.console import plain_console
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.run import RunSummary
from wsss.report.results_table import results_page
from wsss.report.run_files import FileName, changed_settings
from wsss.report.run_results import show_results
from wsss.report.submissions import compare_scores
from wsss.report.tables import plain

RECIPE = """
[recipe]
name = "results"
seed = 3
supervision = "full"
[stages.build_shards]
source = "toy"
counts = { train = 4, val = 4 }
size = 32
[stages.train_segmenter]
encoder = "test_efficientnet"
pretrained = "none"
decoder_channels = 16
full_share = 1.0
[stages.predict]
scales = [1.0]
flip = false
[stages.predict_views]
kind = "predict"
scales = [1.0, 2.0]
splits = ["train", "val"]
[stages.evaluate]
inputs = { records = "predict" }
num_gallery_images = 0
[stages.evaluate_views]
kind = "evaluate"
title = "[red]views[/]"
inputs = { records = "predict_views" }
num_gallery_images = 0
[stages.submit]
inputs = { predictions = "predict" }
[stages.submit_views]
kind = "submit"
inputs = { predictions = "predict_views" }
split = "train"
"""


class Tracker(NoTracker):
    """Remembers what was reported of a pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.artifacts: dict[str, str] = {}

    def pipeline_finished(self, pipeline: object, metrics: dict[str, float], artifacts: dict[str, str]) -> None:
        self.artifacts = artifacts


def prepared(tmp_path: Path, *overrides: str, text: str = RECIPE) -> tuple[Recipe, RunSummary]:
    path = tmp_path / "results.toml"
    path.write_text(text)
    recipe = tiny(tmp_path / "runs", *overrides, path=path)
    pretend_trained(recipe.instance("train_segmenter"))
    return recipe, run(recipe)


def reported(recipe: Recipe, summary: RunSummary, tracker: Tracker | None = None) -> tuple[str, str]:
    """What goes to stderr, and the tables."""
    said, shown = io.StringIO(), io.StringIO()
    show_results(
        recipe,
        summary,
        tracker=tracker or Tracker(),
        console=plain_console(file=said, width=100),
        out=shown,
        open_command="mlflow ui",
    )
    return said.getvalue(), shown.getvalue()


def with_scores(recipe: Recipe, **of_instances: float) -> None:
    """Evaluations of these scores in place of those of a network that was never trained."""
    for name, score in of_instances.items():
        record = recipe.instance(name).run_record()
        assert record is not None
        record.metrics["val.mean_iou"] = score
        recipe.instance(name).write_run_record(record)


def with_subset_scores(recipe: Recipe, scores: dict[str, float]) -> None:
    """What evaluate_views measured of subsets of the views."""
    instance = recipe.instance("evaluate_views")
    record = instance.run_record()
    assert record is not None
    metrics = {f"val.mean_iou.{name}": score for name, score in scores.items()}
    instance.write_run_record(replace(record, metrics={**record.metrics, **metrics}))


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Recipe, RunSummary]:
    recipe, summary = prepared(tmp_path)
    with_scores(recipe, evaluate=0.4, evaluate_views=0.5)
    return recipe, summary


def test_files_and_records_do_not_need_a_reader_of_the_table(finished: tuple[Recipe, RunSummary]) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    recipe, summary = finished
    tracker, console = Tracker(), plain_console(file=io.StringIO())
    with pytest.raises(ReaderGoneError):
        show_results(recipe, summary, tracker=tracker, console=console, out=Closed(), open_command="mlflow ui")
    assert f"results-{recipe.fingerprint[:8]}.md" in tracker.artifacts
    assert (recipe.results / "results.md").is_file()


def test_two_submissions_have_files_of_their_own(finished: tuple[Recipe, RunSummary]) -> None:
    recipe, summary = finished
    said, _ = reported(recipe, summary)
    files = {name: recipe.instance(name) for name in ("submit", "submit_views")}
    for name, instance in files.items():
        path = recipe.results / f"{name}-{instance.fingerprint[:8]}.zip"
        assert f"{path}: 4 images of split" in said
        with zipfile.ZipFile(path) as archive:
            assert len(archive.namelist()) == 4
        known = json.loads(path.with_suffix(".json").read_bytes())
        assert (known["recipe"], known["fingerprint"], known["num_images"]) == ("results", instance.fingerprint, 4)
        assert known["changed_settings"] == {} and known["pipeline"] == recipe.fingerprint
    known = json.loads((recipe.results / f"submit-{files['submit'].fingerprint[:8]}.json").read_bytes())
    assert known["predictions"] == "predict"
    assert known["validation"] == {
        "predictions": "predict", "split": "val", "mean_iou": 0.4, "measured_by": "evaluate",
    }  # fmt: skip
    assert not (recipe.results / "results.zip").exists()


def test_a_prediction_that_scores_higher_is_named(finished: tuple[Recipe, RunSummary]) -> None:
    recipe, summary = finished
    lines = reported(recipe, summary)[0].splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("submission") and "submit-" in line]
    assert lines[first].endswith("by predict, mean IoU 40.0 on val (evaluate)")
    assert lines[first + 1].strip() == (
        "another prediction scores higher: predict_views, mean IoU 50.0 on val (evaluate_views); "
        "--set submit.inputs.predictions=predict_views submits it"
    )
    (second,) = [number for number, line in enumerate(lines) if "submit_views-" in line and "of split 'train'" in line]
    assert lines[second].endswith("by predict_views, mean IoU 50.0 on val (evaluate_views)")
    assert not any("scores higher" in line for line in lines[second:]), "it is the best one"
    assert lines[second + 1].strip() == (
        "no other measured prediction is better; the next one: predict, mean IoU 40.0 on val (evaluate)"
    )
    tied = {"evaluate": 0.5, "evaluate_views": 0.5}
    with_scores(recipe, **tied)
    assert "scores higher" not in reported(recipe, summary)[0]


@pytest.mark.parametrize(
    ("subset", "in_words", "settings"),
    [
        ("none", "one view", "--set 'predict_views.scales=[1.0]' --set predict_views.flip=false"),
        ("flip", "one scale, mirrored too", "--set 'predict_views.scales=[1.0]' --set predict_views.flip=true"),
        ("scales", "all scales", "--set predict_views.flip=false"),
    ],
)
def test_fewer_views_that_score_higher_are_named(subset: str, in_words: str, settings: str, tmp_path: Path) -> None:
    recipe, summary = prepared(tmp_path, 'predict_views.ablation=["none","flip","scales"]')
    with_scores(recipe, evaluate=0.4, evaluate_views=0.5)
    subsets = ("none", "flip", "scales")
    with_subset_scores(recipe, dict.fromkeys(subsets, 0.45))
    assert "scores higher: mean IoU" not in reported(recipe, summary)[0]
    with_subset_scores(recipe, {**dict.fromkeys(subsets, 0.45), subset: 0.55})
    said = reported(recipe, summary)[0]
    assert f" {in_words} scores higher: mean IoU 55.0 on val; {settings} submits that\n" in said
    assert said.count("scores higher: mean IoU") == 1, "only of the submission of these predictions"


def test_views_outside_the_sizes_of_training_are_noted_before_the_stage_and_below_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once for each stage that runs, not for each image, and not for a stage that is reused."""
    inside = "predict_views.long_side=256"
    recipe, summary = prepared(tmp_path, inside, "predict_views.scales=[1.0,2.0]")
    caution = "predict.scales: 1 makes a longer side of 32 to 34 pixels, but train_segmenter learned from 256 to 704; "
    run_notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note   ")]
    assert len(run_notes) == 1 and run_notes[0].startswith(f"note   {caution}")
    _, shown = reported(recipe, summary)
    assert shown.count(caution) == 1 and "predict_views.scales" not in shown
    assert (recipe.results / "results.md").read_text().count(caution) == 1
    assert caution in " ".join(plain(results_page(recipe).tables["results"]).split())
    assert run(recipe).executed == [] and "note   " not in capsys.readouterr().err


def test_a_score_on_another_split_of_the_same_network_counts(finished: tuple[Recipe, RunSummary]) -> None:
    recipe, _ = finished
    records = {i.name: record for i in recipe.instances if (record := i.run_record()) is not None}
    found = compare_scores(recipe, recipe.instance("submit_views"), records)
    assert found.own is not None and (found.own.split, found.own.predictions) == ("val", "predict_views")
    assert found.best_other is not None and found.best_other.predictions == "predict"
    del records["evaluate_views"]
    found = compare_scores(recipe, recipe.instance("submit_views"), records)
    assert found.own is None and found.best_other is not None and found.best_other.mean_iou == 0.4


TEST_SHARDS = """
[stages.test_shards]
kind = "build_shards"
source = "toy"
counts = { test = 3 }
splits = ["test"]
size = 32
draw_seed = 5
[stages.predict_test]
kind = "predict"
inputs = { samples = "test_shards" }
scales = [1.0]
flip = false
splits = ["test"]
[stages.submit_test]
kind = "submit"
inputs = { samples = "test_shards", predictions = "predict_test" }
split = "test"
"""


def test_images_with_shards_of_their_own_have_the_score_of_the_same_network(tmp_path: Path) -> None:
    recipe, summary = prepared(tmp_path, text=RECIPE + TEST_SHARDS)
    with_scores(recipe, evaluate=0.4, evaluate_views=0.5)
    summary.records = {i.name: record for i in recipe.instances if (record := i.run_record()) is not None}
    found = compare_scores(recipe, recipe.instance("submit_test"), summary.records)
    assert found.own is not None and (found.own.predictions, found.own.split) == ("predict", "val")
    assert found.best_other is not None and found.best_other.predictions == "predict_views"
    said = " ".join(reported(recipe, summary)[0].split())
    samples, zip_of = recipe.instance("test_shards").path, recipe.results
    name = f"submit_test-{recipe.instance('submit_test').fingerprint[:8]}.zip"
    assert f"{zip_of / name}: 3 images of split 'test' by predict_test, mean IoU 40.0 on val (evaluate)" in said
    command = f"check-submission {zip_of / name} --samples {samples} --split test --num-classes 5"
    assert f"wsss {command} checks it" in said
    assert main(command.split()) == 0
    # Another network's predictions are no score of this one.
    del summary.records["evaluate"]
    other = compare_scores(recipe, recipe.instance("submit_test"), summary.records)
    assert other.own is None


def test_another_set_keeps_what_was_there_and_says_so(finished: tuple[Recipe, RunSummary], tmp_path: Path) -> None:
    recipe, summary = finished
    reported(recipe, summary)
    names = {path.name: path.read_bytes() for path in recipe.results.iterdir()}
    digits = recipe.fingerprint[:8]
    assert names["results.md"] == names[f"results-{digits}.md"]
    assert names["contact_sheet.png"] == names[f"contact_sheet-{digits}.png"]

    other, after = prepared(tmp_path, "predict.flip=true")
    said, _ = reported(other, after)
    kept = {path.name: path.read_bytes() for path in other.results.iterdir()}
    mine = [name for name in names if digits in name or name.startswith("submit-")]
    assert len(mine) == 5 and all(kept[name] == names[name] for name in mine)
    assert kept["results.md"] == kept[f"results-{other.fingerprint[:8]}.md"] != names["results.md"]
    kept = f"that is kept as results-{digits}.md"
    assert f"results.md showed pipeline {digits}, the recipe file unchanged; {kept}" in said
    first = f"submit-{recipe.instance('submit').fingerprint[:8]}.zip"
    assert f"{first} (4 images, mean IoU 40.0 on val (evaluate); the recipe file unchanged)" in said
    submit = json.loads((other.results / f"submit-{other.instance('submit').fingerprint[:8]}.json").read_bytes())
    assert submit["changed_settings"] == {"predict.flip": True}

    again, _ = reported(recipe, summary)
    assert "results.md showed pipeline " + other.fingerprint[:8] + ", predict.flip = true; that is kept" in again
    assert "replaced" not in reported(recipe, summary)[0], "the same pipeline once more replaces nothing"


def test_files_of_an_older_version_are_kept(finished: tuple[Recipe, RunSummary]) -> None:
    recipe, summary = finished
    recipe.results.mkdir(parents=True)
    (recipe.results / "results.md").write_text("of old")
    (recipe.results / "results.zip").write_bytes(b"of old")
    said, _ = reported(recipe, summary)
    (dated,) = recipe.results.glob("results-*T*.md")
    assert dated.read_text() == "of old" and f"that is kept as {dated.name}" in said
    assert (recipe.results / "results.zip").read_bytes() == b"of old"


def test_a_submission_computed_anew_says_what_it_replaces(finished: tuple[Recipe, RunSummary]) -> None:
    recipe, summary = finished
    reported(recipe, summary)
    path = recipe.results / f"submit-{recipe.instance('submit').fingerprint[:8]}.zip"
    assert "replaces a file" not in reported(recipe, summary)[0]
    path.write_bytes(b"other masks")
    assert "replaces a file with the same settings" in reported(recipe, summary)[0]
    assert zipfile.is_zipfile(path)


def test_what_is_reported_are_the_files_that_nothing_replaces(finished: tuple[Recipe, RunSummary]) -> None:
    recipe, summary = finished
    tracker = Tracker()
    _, shown = reported(recipe, summary, tracker)
    digits = recipe.fingerprint[:8]
    assert set(tracker.artifacts) == {f"results-{digits}.md", f"contact_sheet-{digits}.png"}
    assert all(Path(path).name == name for name, path in tracker.artifacts.items())
    assert "[red]views[/]" in shown, "a title is printed as it is written"
    assert r"| \[red\]views\[/\] | val |" in (recipe.results / "results.md").read_text()


def test_missing_and_left_out_are_reported_of_every_instance_of_a_kind(finished: tuple[Recipe, RunSummary]) -> None:
    recipe, _ = finished
    both = RunSummary(missing={"a": "1 record:\n  k: torn"}, left_out={"a": {"train": 2}}, executed=["a"])
    both.add(RunSummary(missing={"b": "3 records:", "c": "3 records:"}, skipped={"[b]": "no masks"}, executed=["b"]))
    said, _ = reported(recipe, both)
    for line in (
        "missing      a: 1 record:\n  k: torn",
        "missing      b: 3 records:",
        "missing      c: the same as of b",
        "left out     2 train images of a",
        "skipped      [b]: no masks",
    ):
        assert line in said
    assert both.executed == ["a", "b"]


def test_changed_settings_are_those_of_set_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.toml"
    path.write_text(RECIPE)
    given = ["recipe.seed=7", "predict.scales=[0.5]", "submit.inputs.predictions=predict_views", "runtime.threads=2"]
    assert changed_settings(tiny(tmp_path, *given, path=path)) == {
        "recipe.seed": 7,
        "predict.scales": [0.5],
        "submit.inputs.predictions": "predict_views",
        "submit.inputs.samples": "build_shards",  # an origin is kept of the table `inputs` as a whole
    }
    assert FileName("a/b c", "1a2b3c4d5e").stem == "a_b_c-1a2b3c4d"
