"""Cross-fitting from the samples to the labels: no network labels an image that it has learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from shards.layer import split_of
from shards.reader import read_shard
from shards.records import CamRecord, Record
from tests.pipeline.chain import files, run, tiny
from wsss.contract.fit import Fit
from wsss.contract.stage import Instance, Map
from wsss.pipeline.recipe import Recipe, RecipeError
from wsss.report.show_recipe import instance_page

pytestmark = pytest.mark.slow

FOLDS = 3
NETWORKS = ("train_classifier", "train_affinity", "train_segmenter")
LABELLED_BY = {"make_cams": "classifier", "make_scores": "affinity", "make_segmenter_maps": "segmenter"}
SETTINGS = [
    *(f"{name}.folds={FOLDS}" for name in NETWORKS),
    *(f"{name}.num_epochs=1" for name in NETWORKS),
    "train_classifier.checkpoint_every=0",
    "build_shards.counts={ train = 20, val = 8 }",
]
LAST = "make_segmenter_maps"


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = tiny(tmp_path_factory.mktemp("crossed") / "runs", *SETTINGS)
    run(recipe, last=LAST)
    return recipe


def learned_shards(recipe: Recipe, name: str, fold: int) -> set[str]:
    """The shards of all examples that a training can draw."""
    instance = recipe.instance(f"{name}_fold{fold}")
    examples = cast(Fit, instance.stage).training_set(instance)
    return {examples.name_of(index).partition(":")[0] for index in range(len(examples))}


def same(made: list[Record], kept: list[Record]) -> bool:
    def maps(records: list[Record]) -> list[np.ndarray]:
        return [r.maps if isinstance(r, CamRecord) else r.scores for r in records]  # type: ignore[attr-defined]

    return all(np.array_equal(a, b) for a, b in zip(maps(made), maps(kept), strict=True))


def made_with(instance: Instance, slot: str, network: Instance, shard: str) -> list[Record]:
    inputs = {name: up for name, up in instance.inputs.items() if name in instance.stage.slots} | {slot: network}
    stage = cast(Map, instance.stage)
    return [one for one in stage.worker(replace(instance, inputs=inputs))(shard) if not hasattr(one, "reason")]


@pytest.mark.parametrize("reader", list(LABELLED_BY))
def test_no_network_labelled_an_image_that_it_had_learned(crossed: Recipe, reader: str) -> None:
    instance, slot = crossed.instance(reader), LABELLED_BY[reader]
    base = instance.inputs[slot].name.removesuffix("_fold1")
    learned = {fold: learned_shards(crossed, base, fold) for fold in range(1, FOLDS + 1)}
    train = {shard for shard in crossed.instance("build_shards").layer.shards() if split_of(shard) == "train"}
    assert len(train) == 5 and set.union(*learned.values()) == train
    for shard in instance.layer.shards():
        kept = list(read_shard(instance.layer, shard))
        by = [
            fold
            for fold in range(1, FOLDS + 1)
            if same(made_with(instance, slot, crossed.instance(f"{base}_fold{fold}"), shard), kept)
        ]
        assert len(by) == 1, f"{shard} was made by one network"
        assert shard not in learned[by[0]]


def test_all_images_have_labels_in_one_layer(crossed: Recipe) -> None:
    for name in LABELLED_BY:
        layer = crossed.instance(name).layer
        assert layer.shards() == crossed.instance("build_shards").layer.shards()
        assert layer.counts() == crossed.instance("make_cams").layer.counts()


def test_killed_and_run_again_it_ends_with_the_same_bytes(crossed: Recipe, tmp_path: Path) -> None:
    again = tiny(tmp_path / "runs", *SETTINGS)
    run(again, last="train_classifier_fold2")
    run(again, last="make_cams")
    made = again.instance("make_cams")
    before = files(made)
    (made.path / "index.json").unlink()
    (made.layer.tar_path("train-000001")).unlink()
    run(again, last="make_cams")
    assert files(made) == before == files(crossed.instance("make_cams"))


def test_more_folds_than_shards_are_refused_when_the_shards_are_known(tmp_path: Path) -> None:
    settings = ["build_shards.shard_size=0", "build_shards.shard_megabytes=100", "train_classifier.folds=2"]
    recipe = tiny(tmp_path / "runs", *settings)
    with pytest.raises(RecipeError, match=r"folds = 2, but shards of the split train: 1; .*remove folds"):
        run(recipe, last="train_classifier_fold1")


def test_a_class_that_a_fold_lacks_is_refused_once_the_samples_are_done(tmp_path: Path) -> None:
    images = ["build_shards.counts={ train = 2, val = 2 }", "build_shards.shard_size=1"]
    recipe = tiny(tmp_path / "runs", "train_classifier.folds=2", *images)
    refusal = r"train_classifier.folds = 2: all training images of .* \(\d\) are in fold \d, .* dropped_classes"
    with pytest.raises(RecipeError, match=refusal):
        run(recipe, last="train_classifier")
    assert not recipe.instance("train_classifier_fold1").path.exists()
    assert "a run is refused: train_classifier.folds = 2" in str(instance_page(recipe, "train_classifier").heading)
