"""The rehearsal: lid.toml's stages on a drawn data set of LID's size."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from shards.images import decode_index_png
from shards.sources.ilsvrc_det import IlsvrcDetSource
from shards.sources.lid import LidSource
from shards.taxonomy import ilsvrc_det_200
from tests.architecture.sources import ROOT
from tests.benchmarks.rehearsal.drawn_lid import NUM_EXTRA, NUM_TRAIN, Numbers, classes_of_train, draw_lid
from tests.benchmarks.rehearsal.pictures import SIZES, draw
from wsss.pipeline.dry_recipe import without_data
from wsss.pipeline.recipe import Recipe, dotted_settings, load_recipe

RECIPES = ROOT / "tuning" / "recipes"
_ROW = re.compile(r"^# \| ([a-z0-9_.*, ]+) \| (.+) \| (.+) \|$", re.MULTILINE)


def resolved(name: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.toml", stand_in=without_data)


def values(recipe: Recipe) -> dict[str, object]:
    return {name: value for one in recipe.instances for name, value in dotted_settings(one).items()}


def named_values() -> dict[str, str]:
    """Pattern of names in the table -> the value beside it."""
    found: dict[str, str] = {}
    for names, text, _ in _ROW.findall((RECIPES / "rehearsal.toml").read_text()):
        patterns, texts = names.split(", "), re.findall(r"\[[^\]]*\]|[^,\s]+", text)
        found |= zip(patterns, texts * len(patterns) if len(texts) == 1 else texts, strict=True)
    return found


def test_the_table_names_every_setting_that_differs_with_its_value() -> None:
    named = named_values()
    here, there = values(resolved("rehearsal")), values(resolved("lid_submit")) | values(resolved("lid"))
    there |= {"predict_test.unchecked": there["predict.unchecked"]}
    differing = {name for name in here if here[name] != there[name]}
    # Places on a disk, and what a submission for test and not for val reads.
    differing = {name for name in differing if not re.search(r"\.(root|package|inputs\..*)$|^submit\.split$", name)}
    assert {name for name in differing if not any(fnmatch(name, pattern) for pattern in named)} == set()
    for pattern, text in named.items():
        matched = {name: here[name] for name in differing if fnmatch(name, pattern)}
        assert matched, pattern
        for name, value in matched.items():
            assert (str(list(value)) if isinstance(value, tuple) else str(value)) == text, name


def test_it_runs_the_stages_of_lid_and_of_its_submission() -> None:
    here = [(one.name, one.stage.kind) for one in resolved("rehearsal").instances]
    lid = [(one.name, one.stage.kind) for one in resolved("lid").instances]
    submitted = [(one.name, one.stage.kind) for one in resolved("lid_submit").instances]
    assert here == lid[:-1] + submitted[-3:]


def test_the_drawn_classes_follow_the_histogram() -> None:
    numbers = Numbers.of_share(1.0)
    assert (numbers.train, numbers.extra) == (NUM_TRAIN, NUM_EXTRA)
    classes = classes_of_train(numbers)
    found = Counter(class_id for each in classes for class_id in each)
    with resources.files("shards").joinpath("ilsvrc_det.tsv").open() as file:
        expected = {int(row["id"]): int(row["train_images"]) for row in csv.DictReader(file, delimiter="\t")}
    assert len(classes) == NUM_TRAIN - NUM_EXTRA
    assert found == Counter(expected)
    assert all(len(set(each)) == len(each) for each in classes)


def test_every_class_is_drawn_at_any_size() -> None:
    classes = classes_of_train(Numbers.of_share(0.0001))
    assert {class_id for each in classes for class_id in each} == set(range(1, 201))


def test_pictures_show_what_their_masks_and_boxes_say() -> None:
    for seed in range(40):
        picture = draw(np.random.default_rng(seed), [7, 124, 55][: 1 + seed % 3])
        assert picture.mask.shape in SIZES and picture.image.shape == (*picture.mask.shape, 3)
        assert {one.class_id for one in picture.objects} == set(np.unique(picture.mask).tolist()) - {0}
        for one in picture.objects:
            left, top, right, bottom = one.box
            inside = picture.mask == one.class_id
            assert inside[top : bottom + 1, left : right + 1].sum() == inside.sum()
            assert inside[top].any() and inside[bottom].any() and inside[:, left].any() and inside[:, right].any()


def test_the_drawn_data_set_is_read_as_lid_is(tmp_path: Path) -> None:
    drawn = draw_lid(tmp_path / "a", 0.0005)
    det = IlsvrcDetSource(root=drawn.root, splits=("train",))
    source = LidSource(package=drawn.package, train=det)
    of_split = {split: [source.read(one) for one in source.list_split(split)] for split in ("train", "val", "test")}
    assert [len(each) for each in of_split.values()] == [drawn.numbers.train, drawn.numbers.val, drawn.numbers.test]
    without = [one for one in of_split["train"] if not one.classes]
    assert len(without) == drawn.numbers.extra and all(len(one.unknown) in (192, 193) for one in without)
    full = [one for one in of_split["train"] if "2014" in one.key]
    assert len(full) == drawn.numbers.of_2014 and not any(one.unknown for one in full)
    assert all(one.mask is not None and one.classes for one in of_split["val"])
    coloured = drawn.package / "LID_track1_annotations" / "track1_val_annotations"
    for one in of_split["val"]:
        assert np.array_equal(decode_index_png((coloured / f"{one.key}.png").read_bytes()), one.mask)


def test_the_same_share_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_lid(tmp_path / name, 0.0005)
    first, second = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("a", "b")
    )
    assert first == second
    with pytest.raises(ValueError, match="holds another drawn data set"):
        draw_lid(tmp_path / "a", 0.001)


@pytest.mark.ray
@pytest.mark.extended
def test_a_thousandth_runs_to_the_submission(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.full_size", "--folder", str(tmp_path), "--share", "0.001"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["agreement"] and report["checks"]["driver's peak memory, bytes"]["ok"]
    # No stage has ten shards or 4,000 records.
    assert not {"seconds to resume at 90 %", "own share of a Map stage, core-ms per record"} & report["checks"].keys()
    assert "NOT RUN: seconds to resume at 90 %: no stage is large enough" in result.stderr
    assert max(map(len, result.stdout.splitlines()[:-2])) <= 80
    rows = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "rows").glob("*.json")}
    numbers = Numbers.of_share(0.001)
    assert rows["make_cams"]["records"] == numbers.train
    person = ilsvrc_det_200().id_of("person")  # which the classifier does not learn
    assert rows["make_cams"]["made"] == sum(set(each) != {person} for each in classes_of_train(numbers))
    assert rows["submit"]["records"] == rows["predict_test"]["made"] == numbers.test
    assert rows["make_cams"]["core_seconds"]["network"] > 0 and rows["make_seeds"]["core_seconds"]["operation"] > 0
