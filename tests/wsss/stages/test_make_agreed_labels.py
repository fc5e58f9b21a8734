"""make_agreed_labels: pixels in which label maps differ are ignored, and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.local import LocalRuntime
from cluster.ray_runtime import RayRuntime
from shards.records import Missing, Prediction, PseudoLabel
from tests.wsss.layers import Shards, instance_of, records_of, sample, samples_of
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance, Map
from wsss.pipeline.recipe import RecipeError, load_recipe
from wsss.stages.make_agreed_labels import MakeAgreedLabels
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.predict import Predict

SIZE, GRID = (11, 13), (3, 4)
SHARD, VAL = "train-000000", "val-000000"


def label_map(key: str, *columns: int, confidence: int = 200) -> PseudoLabel:
    """Columns of these values; the last value fills the rest."""
    row = np.full(SIZE[1], columns[-1], np.uint8)
    row[: len(columns)] = columns
    return PseudoLabel(key=key, mask=np.tile(row, (SIZE[0], 1)), confidence=np.full(GRID, confidence, np.uint8))


def made_by(stage: Map, name: str, path: Path, samples: Instance, shards: Shards) -> Instance:
    made = records_of(stage, path / name, samples, shards)
    return replace(made, name=name, fingerprint=name.ljust(64, "0"))


def prepared(path: Path, **layers: Shards) -> Instance:
    keys = ("a", "b")
    samples = samples_of(path, {shard: [sample(key, None, size=SIZE) for key in keys] for shard in (SHARD, VAL)})
    inputs = {slot: made_by(MakePseudoLabels(), slot, path, samples, shards) for slot, shards in layers.items()}
    return instance_of(MakeAgreedLabels(), path, samples=samples, **inputs)


def test_two_layers(tmp_path: Path) -> None:
    first: Shards = {SHARD: [label_map("a", 0, 2, 3, 3), label_map("b", 1)], VAL: []}
    second: Shards = {SHARD: [label_map("a", 0, 5, 255, 3, confidence=90), label_map("b", 1)], VAL: []}
    instance = prepared(tmp_path, first=first, second=second)
    assert isinstance(instance.stage, MakeAgreedLabels)
    instance.stage.check(instance)
    one, other = instance.stage.worker(instance)(SHARD)
    assert isinstance(one, PseudoLabel) and isinstance(other, PseudoLabel)
    assert (one.key, other.key) == ("a", "b")
    assert (one.mask == one.mask[0]).all() and one.mask[0].tolist() == [0, 255, 255, *[3] * 10]
    assert (one.confidence == 90).all() and one.confidence.shape == GRID
    assert one.disputed == 2 * SIZE[0] and other.disputed == 0
    assert (other.mask == 1).all() and (other.confidence == 200).all()


def test_a_prediction_and_four_layers(tmp_path: Path) -> None:
    agreeing: Shards = {SHARD: [label_map("a", 4), label_map("b", 4)]}
    instance = prepared(tmp_path, first=agreeing, second=agreeing, fourth=agreeing)
    samples, of_a = instance.inputs["samples"], label_map("a", 4, 4, 1, 4, confidence=7)
    predictions = [Prediction(key=key, mask=of_a.mask, confidence=of_a.confidence) for key in ("a", "b")]
    third = made_by(Predict(), "third", tmp_path, samples, {SHARD: predictions})
    instance = replace(instance, inputs={**instance.inputs, "third": third})
    assert isinstance(instance.stage, MakeAgreedLabels)
    one, _ = instance.stage.worker(instance)(SHARD)
    assert isinstance(one, PseudoLabel)
    assert one.mask[0].tolist() == [4, 4, 255, *[4] * 10] and (one.confidence == 7).all()


def test_an_image_without_one_of_the_labels_is_missing(tmp_path: Path) -> None:
    gone = Missing(key="a", reason="it has unknown classes", left_out=True)
    first: Shards = {SHARD: [label_map("a", 2), label_map("b", 2)]}
    instance = prepared(tmp_path, first=first, second={SHARD: [gone, label_map("b", 2)]})
    assert isinstance(instance.stage, MakeAgreedLabels)
    one, other = instance.stage.worker(instance)(SHARD)
    assert (
        one == replace(gone, reason="second: it has unknown classes")
        and isinstance(other, PseudoLabel)
        and other.key == "b"
    )


def test_the_share_of_disputed_pixels_is_a_metric_of_each_split(tmp_path: Path) -> None:
    both = [label_map("a", 2), label_map("b", 2)]
    first: Shards = {SHARD: both, VAL: both}
    second: Shards = {SHARD: [label_map("a", 2, 3), label_map("b", 3)], VAL: [label_map("a", 2), label_map("b", 2)]}
    instance = prepared(tmp_path, first=first, second=second)
    stage = instance.stage
    assert isinstance(stage, MakeAgreedLabels)
    made = {shard: list(stage.worker(instance)(shard)) for shard in stage.shards(instance)}
    written = records_of(stage, tmp_path, instance.inputs["samples"], made)
    outcome = stage.outcome(replace(instance, path=written.path))
    share = (12 + 13) / 26
    assert outcome.metrics == {
        "disputed.train.pixel_share": pytest.approx(share),
        "disputed.val.pixel_share": 0.0,
    }
    assert outcome.notes[0] == "train: the labels differ in 96.2 % of the pixels, which are ignored now"


def test_inputs_that_cannot_differ_or_lack_a_split_are_refused(tmp_path: Path) -> None:
    labels: Shards = {SHARD: [label_map("a", 2)]}
    instance = prepared(tmp_path, first=labels, second=labels)
    same = replace(instance, inputs={**instance.inputs, "second": instance.inputs["first"]})
    with pytest.raises(ValueError, match=r"inputs.second names first, the same labels as inputs.first, .*name other"):
        same.stage.check(same)
    only_val = replace(instance.inputs["second"], stage=Predict())
    short = replace(instance, inputs={**instance.inputs, "second": only_val})
    with pytest.raises(ValueError, match=r"splits names 'train', which second does not make \(val\); set "):
        short.stage.check(short)


def test_labels_of_fewer_shards_are_refused_before_the_first_one(tmp_path: Path) -> None:
    labels: Shards = {SHARD: [label_map("a", 2), label_map("b", 2)]}
    instance = prepared(tmp_path, first=labels | {"train-000001": []}, second=labels)
    many = samples_of(tmp_path / "more", {SHARD: [], "train-000001": []})
    stage = MakeAgreedLabels(splits=("train",))
    instance = replace(instance, stage=stage, inputs={**instance.inputs, "samples": many})
    with pytest.raises(
        ValueError, match=r"inputs.second: second has no shard train-000001 \(1 such\); make it without"
    ):
        stage.prepare(instance)


def test_the_agreement_of_an_image_is_recorded_on_request(tmp_path: Path) -> None:
    first: Shards = {SHARD: [label_map("a", 0, 0, 0, 4), label_map("b", 1)]}
    second: Shards = {SHARD: [label_map("a", 0, 0, 4), label_map("b", 1)]}
    instance = prepared(tmp_path, first=first, second=second, third=first)
    assert isinstance(instance.stage, MakeAgreedLabels)
    plain = list(instance.stage.worker(instance)(SHARD))
    stage = MakeAgreedLabels(image_agreement=True)
    measured = list(stage.worker(replace(instance, stage=stage))(SHARD))
    of_second = (2 / 3 + 10 / 11) / 2
    assert [one.agreement for one in measured if isinstance(one, PseudoLabel)] == [
        pytest.approx((of_second + 1) / 2),
        1.0,
    ]
    for one, other in zip(plain, measured, strict=True):
        assert isinstance(one, PseudoLabel) and isinstance(other, PseudoLabel) and one.agreement is None
        assert (one.mask == other.mask).all() and one.disputed == other.disputed
    assert "image_agreement" not in hashed_values(MakeAgreedLabels())
    assert hashed_values(stage)["image_agreement"] is True


@pytest.mark.ray
@pytest.mark.extended
def test_ray_gives_the_same_bytes(tmp_path: Path) -> None:
    first: Shards = {shard: [label_map("a", 0, 2), label_map("b", 1)] for shard in (SHARD, VAL)}
    second: Shards = {shard: [label_map("a", 0, 5, 5, 2), label_map("b", 3, 1)] for shard in (SHARD, VAL)}
    instance = prepared(tmp_path, first=first, second=second)
    here, there = (replace(instance, path=tmp_path / name) for name in ("here", "there"))
    assert isinstance(instance.stage, MakeAgreedLabels)
    LocalRuntime(RuntimeSettings()).map(here, instance.stage, lambda *_: None)
    runtime = RayRuntime(RuntimeSettings(num_actors=2), address=None)
    try:
        runtime.map(there, instance.stage, lambda *_: None)
    finally:
        runtime.close()
    assert here.layer.manifest_entry(VAL).entries.metadata("disputed") == [2 * SIZE[0], SIZE[0]]
    for shard in (SHARD, VAL):
        assert here.layer.tar_path(shard).read_bytes() == there.layer.tar_path(shard).read_bytes()
        assert here.layer.manifest_path(shard).read_bytes() == there.layer.manifest_path(shard).read_bytes()


RECIPE = """
recipe.name = "agreed"
[stages.build_shards]
source = "toy"
counts = { train = 5, val = 5 }
[stages.train_classifier]
[stages.make_cams]
[stages.make_scores]
propagation = "none"
[stages.make_pseudo_labels]
[stages.higher]
kind = "make_pseudo_labels"
background_threshold = 0.4
[stages.make_agreed_labels]
INPUTS
[stages.train_segmenter]
"""
BOTH = 'inputs = { first = "make_pseudo_labels", second = "higher" }'


def test_in_a_recipe_both_layers_are_named_and_the_segmenter_reads_the_result(tmp_path: Path) -> None:
    path = tmp_path / "agreed.toml"
    path.write_text(RECIPE.replace("INPUTS", BOTH))
    recipe = load_recipe(path)
    assert set(recipe.instance("make_agreed_labels").inputs) == {"samples", "first", "second"}
    assert recipe.instance("train_segmenter").inputs["pseudo_labels"].name == "make_agreed_labels"
    path.write_text(RECIPE.replace("INPUTS", BOTH) + "\n[stages.evaluate]\n")
    with pytest.raises(RecipeError, match=r"cannot measure make_agreed_labels, .* inputs.records, such as make_pseudo"):
        load_recipe(path)
    path.write_text(RECIPE.replace("INPUTS", 'inputs = { first = "make_pseudo_labels" }'))
    with pytest.raises(RecipeError, match=r"make_agreed_labels reads second from .*read only if inputs = \{ second"):
        load_recipe(path)
