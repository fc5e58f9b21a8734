"""Samples that cannot be used: recorded, counted, carried along, and too many of them stop the run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shards.images import encode_png
from shards.lint import lint
from shards.opened import opened
from shards.sources.toy import ToySource
from tests.pipeline.chain import files, layers, pretend_trained, run, tiny
from wsss.contract.fit import Fit
from wsss.pipeline.missing_records import TooManyMissingError
from wsss.pipeline.recipe import Recipe
from wsss.report.results_table import result_rows

RECIPE = """
[recipe]
name = "missing"
[runtime]
max_missing = 0.2
[stages.build_shards]
source = "voc"
root = "$PHOTOGRAPHS"
labels = "labels.json"
class_names = ["person", "car", "boat", "bird", "chair"]
masks = "SegmentationClass"
shard_size = 2
lists = { train = "$PHOTOGRAPHS/train.txt", val = "$PHOTOGRAPHS/val.txt" }
[stages.train_classifier]
encoder = "test_efficientnet"
pretrained = "none"
[stages.make_cams]
scales = [1.0]
[stages.make_seeds]
crf_iterations = 1
[stages.make_scores]
propagation = "none"
[stages.make_pseudo_labels]
crf_iterations = 1
[stages.train_segmenter]
encoder = "test_efficientnet"
pretrained = "none"
decoder_channels = 16
[stages.predict]
scales = [1.0]
[stages.evaluate]
[stages.submit]
"""
NAMES = ["person", "car", "boat", "bird", "chair"]
NUM_TRAIN, NUM_VAL = 6, 6


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drawn pictures in VOC's layout; val_00001 is cut short, val_00004 shows nothing."""
    root = tmp_path / "photographs"
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    toy, labels = ToySource(counts={"train": NUM_TRAIN, "val": NUM_VAL}, seed=1, size=40), {}
    for split in ("train", "val"):
        listed = toy.list_split(split)
        (root / f"{split}.txt").write_text("\n".join(one.key for one in listed))
        for sample in map(toy.read, listed):
            assert sample.mask is not None
            (root / "JPEGImages" / f"{sample.key}.jpg").write_bytes(sample.encoded)
            (root / "SegmentationClass" / f"{sample.key}.png").write_bytes(encode_png(0 * sample.mask))
            labels[sample.key] = [NAMES[c - 1] for c in sample.classes]
    labels["val_00004"] = []
    (root / "labels.json").write_text(json.dumps(labels))
    cut = root / "JPEGImages" / "val_00001.jpg"
    os.truncate(cut, cut.stat().st_size // 2)
    monkeypatch.setenv("PHOTOGRAPHS", str(root))
    return root


def recipe_for(tmp_path: Path, *overrides: str) -> Recipe:
    path = tmp_path / "missing.toml"
    path.write_text(RECIPE)
    recipe = tiny(tmp_path / "runs", *overrides, path=path)
    for instance in recipe.instances:
        if isinstance(instance.stage, Fit):
            pretend_trained(instance)
    return recipe


def test_one_unreadable_image_is_recorded_counted_and_not_fatal(photographs: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    summary = run(recipe, last="evaluate")
    assert {name: text.partition(":")[0] for name, text in summary.missing.items()} == dict.fromkeys(
        layers(recipe), "1 record"
    )
    reason = "JPEGImages/val_00001.jpg: the image does not decode: image file is truncated"
    for name in layers(recipe):
        index = json.loads((recipe.instance(name).path / "index.json").read_bytes())
        (shard,) = index["missing"]
        assert list(index["missing"][shard]) == ["val_00001"]
        assert index["missing"][shard]["val_00001"].startswith(reason), f"{name} repeats the first reason"
        assert summary.records[name].metrics["records.missing"] == 1
        with opened(str(recipe.instance(name).path)) as layer:
            # The drawn masks are empty, which lint reports of the samples; nothing else is wrong.
            assert [fault for fault in lint(layer) if "the masks contain only 0" not in fault] == []
    assert summary.records["evaluate"].metrics["val.missing"] == 1
    assert summary.records["evaluate"].metrics["val.images"] == NUM_VAL - 1
    (row,) = result_rows(recipe, summary.records)
    assert "1 image missing" in row.note
    assert run(recipe, last="evaluate").missing == summary.missing, "a second run counts them as well"


def test_images_without_classes_pass_through_all_stages(photographs: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    run(recipe, last="evaluate")
    for name in layers(recipe):
        rows = list(recipe.instance(name).layer.manifest_entries("val"))
        assert "val_00004" in [entry.key for row in rows for entry in row.entries]


def test_a_submission_needs_every_image(photographs: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    with pytest.raises(ValueError, match="submit: 1 predictions of split 'val' are missing"):
        run(recipe)


def test_too_many_missing_stop_the_run_with_the_counts(photographs: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, "runtime.max_missing=0.05")
    message = r"build_shards: 1 of 12 records missing, more than runtime.max_missing = 0.05 allows:"
    for _ in range(2):  # the second time, the layer stands there already
        with pytest.raises(TooManyMissingError, match=message):
            run(recipe)
    with pytest.raises(
        TooManyMissingError,
        match=r"(?s)\n  val_.*: .*\nAll reasons are in .*index.json.\nFix these files, delete .*build_shards-",
    ):
        run(recipe)
    assert not recipe.instance("build_shards").is_done()
    assert not recipe.instance("make_cams").layer.path.exists()
    allowed = recipe_for(tmp_path, "runtime.max_missing=0.1")
    assert run(allowed, last="make_cams").executed == ["build_shards", "make_cams"]
    with pytest.raises(TooManyMissingError, match="build_shards: 1 of 12"):
        run(recipe, last="build_shards")


def test_bytes_do_not_depend_on_the_roots_place(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tmp_path)
    run(recipe, last="build_shards")
    moved = photographs.rename(tmp_path / "moved")
    monkeypatch.setenv("PHOTOGRAPHS", str(moved))
    again = tiny(tmp_path / "other", path=tmp_path / "missing.toml")
    run(again, last="build_shards")
    assert files(again.instance("build_shards")) == files(recipe.instance("build_shards"))
