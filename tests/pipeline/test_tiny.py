"""The whole chain on the tiny recipe: what is done stays done, and what was broken off ends in the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import wsss
from cluster import shard_work
from shards.reader import read_shard
from shards.records import Prediction, Sample
from tests.pipeline.chain import TINY, breaking, copy_upstream, files, layers, run, tiny
from tests.pipeline.conftest import Finished
from wsss.__main__ import main
from wsss.contract.fit import Fit, load_trained, weights_path
from wsss.contract.stage import Map
from wsss.contract.weights_metadata import metadata_of, read_metadata
from wsss.pipeline.recipe import RecipeError
from wsss.report.contact_sheet import contact_sheet
from wsss.report.results_table import result_rows
from wsss.report.show_recipe import state_of
from wsss.stages.evaluation.check_submission import check_submission, expected_images
from wsss.stages.predict import Predict

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LAYERS = [
    "build_shards", "make_cams", "make_seeds", "make_scores", "make_pseudo_labels", "make_instance_labels",
    "make_segmenter_maps", "predict", "make_agreed_labels",
]  # fmt: skip


def driver(*arguments: str) -> subprocess.Popen[bytes]:
    """A driver in a session of its own, so that all of its processes can be counted."""
    command = [sys.executable, "-m", "tests.pipeline.chain", *arguments]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)


def wait_until_gone(group: int, *, seconds: float) -> None:
    """Wait for the last process of a session to end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes of {group} live on {seconds} s after their driver was killed")


def test_every_instance_ran_once_and_left_what_it_should(finished: Finished) -> None:
    recipe, summary = finished.recipe, finished.summary
    assert summary.executed == [instance.name for instance in recipe.instances]
    assert summary.reused == [] and summary.missing == {}
    assert layers(recipe) == LAYERS
    for name in LAYERS:
        splits = {"val": 8.0} if name in ("predict", "make_agreed_labels") else {"train": 16.0, "val": 8.0}
        expected = {f"records.{split}": count for split, count in splits.items()} | {"records.missing": 0.0}
        found = summary.records[name].metrics
        assert {metric: value for metric, value in found.items() if metric.startswith("records.")} == expected
    leftovers = [path for path in recipe.runtime.runs.rglob("*") if path.name.endswith(".tmp")]
    assert not leftovers


def test_second_run_executes_nothing(finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.recipe.runtime.runs.rglob("*") if path.is_file()}
    summary = run(tiny(finished.recipe.runtime.runs))
    assert summary.executed == []
    assert summary.reused == finished.summary.executed
    assert summary.records == finished.summary.records
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if after[path] != before[path]} <= {".lock"}


def test_table_pictures_and_submission(finished: Finished) -> None:
    recipe, records = finished.recipe, finished.summary.records
    rows = result_rows(recipe, records)
    reported = [(row.title, row.split, row.labels_given) for row in rows]
    assert reported == [
        ("CAM", "val", True),
        ("evaluate_seeds", "val", True),
        ("pseudo labels", "train", True),
        ("pseudo labels", "val", True),
        ("instances", "val", True),
        ("segmentation", "val", False),
    ]
    assert "% of the pseudo labels' mean IoU" in rows[-1].note
    assert all(row.mean_iou is not None and 0 <= row.mean_iou <= 1 for row in rows if row.title != "evaluate_seeds")
    sheet = contact_sheet(recipe)
    assert sheet is not None and sheet == contact_sheet(recipe)
    submission = Path(records["submit"].artifacts["results.zip"])
    expected = expected_images(recipe.instance("build_shards").path, "val")
    assert list(check_submission(submission, num_classes=5, expected=expected)) == []


def test_show_tells_what_is_done_and_what_would_run(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = finished.recipe.runtime.runs
    assert {state_of(instance).split(" in ")[0] for instance in finished.recipe.instances} == {"done"}
    changed = tiny(runs, "make_seeds.foreground_threshold=0.4")
    would_run = [instance.name for instance in changed.instances if state_of(instance) == "would run"]
    assert would_run == [
        "make_seeds", "train_affinity", "make_scores", "make_pseudo_labels", "make_instance_labels", "evaluate_seeds",
        "evaluate_pseudo_labels", "evaluate_instance_labels", "train_segmenter",
        "make_segmenter_maps", "predict", "evaluate", "submit", "make_agreed_labels",
    ]  # fmt: skip
    assert {state_of(instance) for instance in tiny(tmp_path / "none").instances} == {"would run"}
    assert main(["show", str(TINY), "--set", f"runtime.runs={runs}", "--set", "make_cams.flip=false"]) == 0
    out = capsys.readouterr().out
    lines: dict[str, str] = {}
    for line in filter(None, out.splitlines()):
        lines.setdefault(line.split()[0], line)
    assert "done in" in lines["build_shards"] and "would run" in lines["make_cams"]
    assert "false" in lines["make_cams.flip"] and "--set" in lines["make_cams.flip"]
    assert "tiny.toml" in lines["make_cams.scales"] and "default" in lines["make_cams.method"]


def test_changed_threshold_runs_only_what_stands_after_it(finished: Finished) -> None:
    changed = tiny(finished.recipe.runtime.runs, "make_pseudo_labels.background_threshold=0.5")
    summary = run(changed, last="evaluate_pseudo_labels")
    assert summary.executed == ["make_pseudo_labels", "evaluate_pseudo_labels"]
    names = [instance.name for instance in changed.instances]
    stop = names.index("evaluate_pseudo_labels") + 1
    assert summary.reused == [name for name in names[:stop] if name not in summary.executed]
    old, new = (recipe.instance("make_pseudo_labels") for recipe in (finished.recipe, changed))
    assert old.is_done() and new.is_done() and old.path != new.path
    assert files(old) != files(new)


def test_a_part_whose_inputs_are_not_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"build_shards is not done yet, and make_cams reads it; start with --from"):
        run(tiny(tmp_path), first="make_cams")
    with pytest.raises(RecipeError, match="--from predict comes after --to make_cams; the order is build_shards, "):
        run(tiny(tmp_path), first="predict", last="make_cams")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("damage", ["gone", "cut", "no row"])
def test_only_a_damaged_shard_is_made_again(finished: Finished, tmp_path: Path, name: str, damage: str) -> None:
    whole, recipe = finished.recipe.instance(name), tiny(tmp_path)
    instance = recipe.instance(name)
    copy_upstream(whole, tmp_path)
    shutil.copytree(whole.path, instance.path)
    shard = instance.layer.shards()[1]
    tar, row = instance.layer.tar_path(shard), instance.layer.manifest_path(shard)
    if damage == "gone":
        tar.unlink()
    elif damage == "cut":
        tar.write_bytes(tar.read_bytes()[:700])
    else:
        row.unlink()
    assert not instance.is_done()
    assert state_of(instance).startswith("would run: ")
    before = {path: path.stat().st_mtime_ns for path in instance.path.glob("*.tar") if path != tar}
    assert run(recipe, first=name, last=name).executed == [name]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert files(instance) == files(whole)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_that_was_broken_off_goes_on_with_the_same_bytes(
    finished: Finished, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no space left on the device")

    whole, recipe = finished.recipe.instance(name), tiny(tmp_path)
    instance = recipe.instance(name)
    copy_upstream(whole, tmp_path)
    shards = whole.layer.shards()
    with monkeypatch.context() as patch:
        patch.setattr(shard_work, "write_shard", breaking(shards[1], fail))
        with pytest.raises(RuntimeError, match="no space left"):
            run(recipe, first=name, last=name)
    assert [path.name for path in instance.path.glob("*.tar")] == [f"{shards[0]}.tar"]
    assert not list(instance.path.glob("*.tmp")) and not list(instance.path.glob(".*.tmp"))
    assert state_of(instance) == f"would run: 1 of {len(shards)} shards done"
    assert run(recipe, first=name, last=name).executed == [name]
    assert files(instance) == files(whole)


def test_layer_whose_driver_was_killed_goes_on_with_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    whole, recipe = finished.recipe.instance("make_cams"), tiny(tmp_path)
    instance = recipe.instance("make_cams")
    copy_upstream(whole, tmp_path)
    shards = whole.layer.shards()
    killed = driver(str(tmp_path), "make_cams", "make_cams", shards[3])
    assert killed.wait(timeout=120) == -signal.SIGKILL
    assert [instance.layer.is_finished(shard) for shard in shards] == [True] * 3 + [False] * 3
    assert len(list(instance.path.glob(".*.tar.*.tmp"))) == 1, "it died in the middle of a shard"
    assert state_of(instance) == "would run: 3 of 6 shards done"
    assert run(recipe, first="make_cams", last="make_cams").executed == ["make_cams"]
    assert files(instance) == files(whole)
    assert not list(instance.path.glob(".*.tmp")), "the half-written shard is cleaned away"


def test_training_whose_driver_was_killed_goes_on_to_the_same_weights(finished: Finished, tmp_path: Path) -> None:
    whole, recipe = finished.recipe.instance("train_classifier"), tiny(tmp_path)
    instance = recipe.instance("train_classifier")
    copy_upstream(whole, tmp_path)
    killed = driver(str(tmp_path), "train_classifier", "train_classifier")
    pointer, end = instance.path / "checkpoints" / "latest.json", time.monotonic() + 120
    while not pointer.exists():
        assert killed.poll() is None and time.monotonic() < end, "the training never came to its first checkpoint"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    wait_until_gone(killed.pid, seconds=20)
    assert not weights_path(instance).exists()
    assert state_of(instance) == "would resume from its checkpoint"
    summary = run(recipe, first="train_classifier", last="train_classifier")
    assert weights_path(instance).read_bytes() == weights_path(whole).read_bytes()
    record, expected = summary.records["train_classifier"], finished.summary.records["train_classifier"]
    timed = "train.images_per_second"
    assert {**record.metrics, timed: 0.0} == {**expected.metrics, timed: 0.0}
    assert [row["loss"] for row in record.tables["history"]] == [row["loss"] for row in expected.tables["history"]]
    assert not list(instance.path.glob(".*.tmp"))


@pytest.mark.parametrize("damage", ["no record", "no outcome", "weights cut"])
def test_training_whose_driver_died_at_its_very_end_is_finished(
    finished: Finished, tmp_path: Path, damage: str
) -> None:
    whole, recipe = finished.recipe.instance("train_classifier"), tiny(tmp_path)
    instance = recipe.instance("train_classifier")
    copy_upstream(whole, tmp_path)
    shutil.copytree(whole.path, instance.path)
    if damage == "weights cut":
        weights_path(instance).write_bytes(weights_path(whole).read_bytes()[:-1])
        assert not instance.is_done()
        with pytest.raises(
            ValueError, match=r"weights.safetensors is damaged; delete it, so that train_classifier trains"
        ):
            load_trained(instance)
    else:
        (instance.path / "run.json").unlink()
    if damage == "no outcome":
        (instance.path / "outcome.json").write_text("{")
    assert run(recipe, first="train_classifier", last="train_classifier").executed == ["train_classifier"]
    assert weights_path(instance).read_bytes() == weights_path(whole).read_bytes()
    assert instance.is_done()


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"shards": 3}', '{"record": "cam", "shards": []}'])
def test_damaged_index_is_written_again(finished: Finished, tmp_path: Path, content: str) -> None:
    whole, recipe = finished.recipe.instance("make_cams"), tiny(tmp_path)
    instance = recipe.instance("make_cams")
    copy_upstream(whole, tmp_path)
    shutil.copytree(whole.path, instance.path)
    (instance.path / "index.json").write_text(content)
    assert not instance.is_done()
    with pytest.raises(RecipeError, match="make_cams is not done yet"):
        run(recipe, first="make_seeds", last="make_seeds")
    run(recipe, first="make_cams", last="make_cams")
    assert files(instance) == files(whole)


def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"runtime.runs: .*/file is a file; name a folder"):
        run(tiny(tmp_path / "file"))


def test_lineage_stands_beside_every_result(finished: Finished) -> None:
    text = (finished.recipe.instance("predict").path / "settings.json").read_text()
    for setting in ("make_seeds.foreground_threshold", "make_pseudo_labels.background_threshold", "build_shards.size"):
        assert setting in text


def test_networks_are_saved_whole(finished: Finished) -> None:
    weights = load_file(weights_path(finished.recipe.instance("train_affinity")))
    assert weights["mean_shift"].abs().sum() > 0, "the mean of the displacement field is filled in after training"


def test_weights_say_what_they_hold(finished: Finished, tmp_path: Path) -> None:
    trainings = [instance for instance in finished.recipe.instances if isinstance(instance.stage, Fit)]
    for instance in trainings:
        assert read_metadata(weights_path(instance)) == metadata_of(instance) is not None
    # A copy without its run is enough, and gives what the stage predict gave.
    copy = tmp_path / "copy.safetensors"
    shutil.copy(weights_path(finished.recipe.instance("train_segmenter")), copy)
    predict = finished.recipe.instance("predict")
    assert isinstance(predict.stage, Predict)
    shard = predict.layer.shards()[0]
    samples = {record.key: record for record in read_shard(predict.inputs["samples"].layer, shard)}
    model, settings = wsss.load(copy), predict.stage
    for record in read_shard(predict.layer, shard):
        assert isinstance(record, Prediction)
        sample = samples[record.key]
        assert isinstance(sample, Sample)
        found = model(sample.encoded, scales=settings.scales, flip=settings.flip, merge=settings.merge, long_side=0)
        np.testing.assert_array_equal(found.mask, record.mask)


def test_every_picture_of_a_run_opens(finished: Finished) -> None:
    pictures = list(finished.recipe.runtime.runs.rglob("*.png"))
    names = {path.name.partition(".")[0] for path in pictures}
    assert names == {"threshold_curve", "class_histogram", "best", "worst", "confusion"}
    for path in pictures:
        with Image.open(path) as image:
            image.load()


def test_every_layer_stands_beside_the_samples(finished: Finished) -> None:
    samples = finished.recipe.instance("build_shards").layer
    for name in LAYERS[1:]:
        instance = finished.recipe.instance(name)
        assert isinstance(instance.stage, Map)
        for shard in instance.layer.shards():
            keys = [entry.key for entry in instance.layer.manifest_entry(shard).entries]
            assert keys == [entry.key for entry in samples.manifest_entry(shard).entries]
