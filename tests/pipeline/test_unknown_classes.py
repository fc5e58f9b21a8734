"""A pixel is background only as far as the classes of its image are known to be absent, in every stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.reader import read_shard
from shards.records import CamRecord, PseudoLabel, SeedRecord
from tests.pipeline.chain import RECIPES, pretend_trained, run, tiny
from tests.pipeline.unknown_images import KINDS, WITH_UNKNOWN, background_pixels, is_open, label_layers, write_images
from wsss.pipeline.recipe import Recipe

pytestmark = pytest.mark.slow

PER_KIND = 1
NUM_OPEN = PER_KIND * len(WITH_UNKNOWN)
PREDICTED = ["make_cams.unknown_classes=predicted", "make_cams.unlabelled_threshold=0.5"]
UNDECIDED = ["make_cams.unknown_classes=undecided", "make_segmenter_maps.unknown_classes=undecided"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_images(root, per_kind=PER_KIND)
    return root


@pytest.fixture
def made(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Recipe:
    """The recipe, run with an untrained classifier. The parameter: the last instance, and settings."""
    last, *overrides = request.param
    monkeypatch.setenv("IMAGES_ROOT", str(images))
    recipe = tiny(tmp_path, *overrides, path=RECIPES / "unknown_classes.toml")
    pretend_trained(recipe.instance("train_classifier"))
    run(recipe, last=last)
    return recipe


def keys_of(recipe: Recipe, name: str, split: str = "train") -> list[str]:
    layer = recipe.instance(name).layer
    return [entry.key for row in layer.manifest_entries(split) for entry in row.entries]


def metrics_of(recipe: Recipe, name: str) -> dict[str, float]:
    record = recipe.instance(name).run_record()
    assert record is not None
    return record.metrics


@pytest.mark.parametrize("made", [[None]], indirect=True)
def test_by_default_they_are_left_out_and_counted(made: Recipe) -> None:
    for instance in label_layers(made):
        assert background_pixels(instance) == (0, 0), instance.name
        assert [key for split in ("train", "val") for key in keys_of(made, instance.name, split) if is_open(key)] == []
    layer = made.instance("make_cams").layer
    reasons = sorted(layer.left_out()["train"].values())
    assert reasons == ["192 classes are unknown"] * (2 * PER_KIND) + ["200 classes are unknown"] * PER_KIND
    assert layer.counts() == {"train": PER_KIND * 2, "val": PER_KIND * 2, "missing": 0}
    assert metrics_of(made, "evaluate_cams")["val.left_out"] == NUM_OPEN
    for training, slots in (("train_segmenter", "pseudo_labels"), ("train_dsrg", "seeds")):
        stage, instance = made.instance(training).stage, made.instance(training)
        assert slots in instance.inputs
        examples = stage.training_set(instance)  # type: ignore[attr-defined]
        assert len(examples) == 2 * PER_KIND, "only images whose classes are all known are learned"


@pytest.mark.parametrize("made", [[None, *UNDECIDED]], indirect=True)
def test_undecided_images_keep_their_labels_and_have_no_background(made: Recipe) -> None:
    for instance in label_layers(made):
        background, pixels = background_pixels(instance)
        assert background == 0, instance.name
        if instance.name != "make_instance_labels":
            assert pixels > 0 and len(keys_of(made, instance.name)) == len(KINDS) * PER_KIND
    assert not any(map(is_open, keys_of(made, "make_instance_labels"))), "0 would mean background there"
    for name in ("make_seeds", "make_pseudo_labels", "make_propagated_labels", "make_seeds_by_exponents"):
        instance, values = made.instance(name), set()
        for shard in instance.layer.shards():
            for record in read_shard(instance.layer, shard):
                assert isinstance(record, SeedRecord | PseudoLabel)
                label = record.label if isinstance(record, SeedRecord) else record.mask
                if record.key.startswith("partial"):
                    values |= set(np.unique(label).tolist())
                elif is_open(record.key):
                    assert (label == 255).all()
                elif record.key.startswith("empty"):
                    assert (label == 0).all(), "an image that is known to show nothing is background"
        assert len(values - {255}) > 0, "labelled classes keep their pixels"
    # Score maps of such images have no place for the background, so no threshold is measured on them.
    for name in ("evaluate_cams", "evaluate_scores", "evaluate_pseudo_labels"):
        assert metrics_of(made, name)["val.unknown"] == NUM_OPEN
        assert metrics_of(made, name)["val.images"] == PER_KIND * 2


@pytest.mark.parametrize("made", [["make_cams", *PREDICTED]], indirect=True)
def test_predicted_classes_get_maps_and_the_others_count_as_absent(made: Recipe) -> None:
    layer = made.instance("make_cams").layer
    records = [r for shard in layer.shards() for r in read_shard(layer, shard) if isinstance(r, CamRecord)]
    assert len(records) == 2 * len(KINDS) * PER_KIND and all(record.unknown == () for record in records)
    numbers = {kind: [len(r.classes) for r in records if r.key.startswith(kind)] for kind in KINDS}
    # An untrained classifier gives every class a probability near a half.
    assert min(numbers["unlabelled"]) > 20 and min(numbers["partial"]) > 20 and set(numbers["empty"]) == {0}
    for record in records:
        if record.key.startswith(("partial", "nothing")):
            assert all(c > 8 for c in record.classes[1:].tolist()), "a class known to be absent never gets a map"


@pytest.mark.parametrize("made", [["make_pseudo_labels", "defaults.unchecked=absent_if_labelled"]], indirect=True)
def test_unchecked_classes_can_count_as_absent_in_labelled_training_images(made: Recipe) -> None:
    kept = {key.partition("_")[0] for key in keys_of(made, "make_pseudo_labels")}
    assert kept == {"known", "empty", "partial"}
    assert {key.partition("_")[0] for key in keys_of(made, "make_pseudo_labels", "val")} == {"known", "empty"}
