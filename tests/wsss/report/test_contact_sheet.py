from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.records import InstanceLabel, Prediction
from tests.wsss.layers import sample
from wsss.contract.stage import Instance
from wsss.pictures.sheets import TILE
from wsss.pipeline.recipe import load_recipe
from wsss.report.contact_sheet import MAX_PREDICTIONS, _chain, _predictions, _row

RECIPES = Path(__file__).resolve().parents[3] / "tuning" / "recipes"


def test_instances_have_colours_of_their_own_and_an_outline() -> None:
    mask = np.zeros((400, 320), np.uint8)
    instances = np.zeros((400, 320), np.uint16)
    instances[100:300, 0:160], instances[100:300, 160:320] = 1, 2
    label = InstanceLabel(
        key="a", instances=instances, classes=np.array([3, 3], np.int16), scores=np.ones(2, np.float16)
    )
    prediction = Prediction(key="a", mask=mask, confidence=np.zeros((100, 80), np.uint8))
    tiles = _row({"image": sample("a", mask), "mine": prediction, "instances": label}, predictions=["mine"])
    assert {"image", "mine", "instances", "truth"} < set(tiles) and {tile.size for tile in tiles.values()} == {
        (TILE * 4 // 5, TILE)
    }
    drawn = np.asarray(tiles["instances"]).astype(int)
    left, right, outside = drawn[80, 30], drawn[80, 100], drawn[10, 10]
    assert np.abs(left - right).sum() > 100 and len(set(outside.tolist())) == 1
    assert (drawn[80, 64] == 255).all() and (drawn[80] == 255).all(axis=1).sum() == 1, "one line between them"
    without = _row({"image": sample("a", mask), "mine": prediction}, predictions=["mine"])["instances"]
    assert isinstance(without, Image.Image) and without.size == tiles["instances"].size


def test_a_column_for_every_objective_that_a_recipe_compares() -> None:
    recipe = tomllib.loads((RECIPES / "voc_segmentation.toml").read_text())
    made = [name for name, table in recipe["stages"].items() if table.get("kind", name) == "predict"]
    assert 1 < len(made) <= MAX_PREDICTIONS


CHAIN = """
[recipe]
name = "small"
[stages.build_shards]
source = "toy"
counts = { train = 5, val = 2 }
[stages.train_classifier]
[stages.make_cams]
[stages.make_seeds]
[stages.train_affinity]
[stages.make_scores]
[stages.make_pseudo_labels]
[stages.train_segmenter]
[stages.taught]
kind = "predict"
splits = ["train", "val"]
labels = "given"
[stages.pupil]
kind = "train_segmenter"
inputs = { pseudo_labels = "taught" }
[stages.predict]
"""


def test_the_chain_behind_predictions_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Instance, "is_done", lambda self: True)
    path = tmp_path / "small.toml"
    path.write_text(CHAIN)
    recipe = load_recipe(path)
    found = _predictions(recipe, "val")
    assert [one.name for one in found] == ["predict"], "not the teacher's"
    chain = _chain(recipe, found[0])
    assert chain["pseudo label"].path == recipe.instance("make_pseudo_labels").path
    assert _predictions(recipe, "train") == []
    agreed = """
[stages.other]
kind = "make_pseudo_labels"
background_threshold = 0.4
[stages.make_agreed_labels]
inputs = { first = "make_pseudo_labels", second = "other" }
[stages.train_segmenter]"""
    path.write_text(CHAIN.replace("[stages.train_segmenter]", agreed))
    recipe = load_recipe(path)
    (prediction,) = _predictions(recipe, "val")
    assert _chain(recipe, prediction)["pseudo label"].name == "make_agreed_labels"
    path.write_text(CHAIN.replace("[stages.train_segmenter]", '[stages.train_segmenter]\nobjective = "dsrg"'))
    recipe = load_recipe(path)
    grown = _chain(recipe, recipe.instance("taught"))
    assert "pseudo label" not in grown and "CAM" in grown, "seeds that grow have no pseudo labels"
