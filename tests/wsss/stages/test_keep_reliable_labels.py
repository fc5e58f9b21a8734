"""keep_reliable_labels: the images of a split are ranked over all shards, and the better share is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.local import LocalRuntime
from shards.records import Missing, Prediction, PseudoLabel
from tests.wsss.layers import Shards, instance_of, records_of, sample, samples_of
from wsss.contract.cost import DatasetStats
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import RecipeError, load_recipe
from wsss.stages.evaluate import Evaluate
from wsss.stages.keep_reliable_labels import KeepReliableLabels
from wsss.stages.make_agreed_labels import MakeAgreedLabels
from wsss.stages.predict import Predict

SIZE, GRID = (11, 13), (3, 4)
FIRST, SECOND, VAL = "train-000000", "train-000001", "val-000000"
KEYS = {FIRST: ("a", "b", "c"), SECOND: ("d", "e"), VAL: ("f", "g")}
AGREEMENT = {"a": 0.3, "b": 0.9, "c": 0.7, "d": 0.8, "e": 0.7, "f": 0.1, "g": 0.2}


def prediction(key: str) -> Prediction:
    value = ord(key) - ord("a")
    return Prediction(key=key, mask=np.full(SIZE, value, np.uint8), confidence=np.full(GRID, 10 * value, np.uint8))


def agreed(key: str, agreement: float) -> PseudoLabel:
    mask, confidence = np.full(SIZE, 255, np.uint8), np.zeros(GRID, np.uint8)
    return PseudoLabel(key=key, mask=mask, confidence=confidence, disputed=SIZE[0] * SIZE[1], agreement=agreement)


def prepared(
    path: Path,
    agreement: Mapping[str, float] = AGREEMENT,
    gone: tuple[Missing, ...] = (),
    unlabelled: tuple[str, ...] = (),
    **settings: Any,
) -> Instance:
    """An instance whose label maps are predictions of one value each; `gone`: images without an agreement;
    `unlabelled`: images without a prediction."""
    samples = samples_of(path, {s: [sample(key, None, size=SIZE) for key in keys] for s, keys in KEYS.items()})
    absent = {one.key: one for one in gone}
    predictions: Shards = {
        shard: [Missing(key=key, reason="it broke") if key in unlabelled else prediction(key) for key in keys]
        for shard, keys in KEYS.items()
    }
    values: Shards = {
        shard: [absent[key] if key in absent else agreed(key, agreement[key]) for key in keys]
        for shard, keys in KEYS.items()
    }
    labels = records_of(Predict(splits=("train", "val")), path / "labels", samples, predictions)
    ranking = records_of(MakeAgreedLabels(image_agreement=True), path / "agreement", samples, values)
    stage = KeepReliableLabels(**settings)
    return instance_of(stage, path, samples=samples, labels=labels, agreement=ranking)


def stage_of(instance: Instance) -> KeepReliableLabels:
    assert isinstance(instance.stage, KeepReliableLabels)
    return instance.stage


def kept(instance: Instance) -> list[str]:
    """The keys of the records, in order; every other image is left out for one reason."""
    stage, keys = stage_of(instance), []
    stage.check(instance)
    stage.prepare(instance)
    for shard in stage.shards(instance):
        for one in stage.worker(instance)(shard):
            if isinstance(one, Missing):
                assert one.left_out and one.reason == "less reliable than the kept share of images"
                continue
            assert isinstance(one, PseudoLabel)
            keys.append(one.key)
    return keys


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, ["b", "d"]), (0.6, ["b", "c", "d"]), (0.8, ["b", "c", "d", "e"]), (0.1, ["b"])],
)
def test_the_best_of_all_shards_are_kept(tmp_path: Path, share: float, expected: list[str]) -> None:
    """Half of five images, rounded down; c and e agree equally, and c is first; at least one image is kept."""
    assert kept(prepared(tmp_path, share=share)) == expected


def test_every_split_is_ranked_alone(tmp_path: Path) -> None:
    assert kept(prepared(tmp_path, share=0.5, splits=("train", "val"))) == ["b", "d", "g"]


def test_labels_are_kept_as_they_are(tmp_path: Path) -> None:
    instance = prepared(tmp_path, share=0.5)
    stage_of(instance).prepare(instance)
    made = [one for one in stage_of(instance).worker(instance)(FIRST) if isinstance(one, PseudoLabel)]
    assert [one.key for one in made] == ["b"]
    assert (made[0].mask == 1).all() and (made[0].confidence == 10).all()
    assert made[0].mask.shape == SIZE and made[0].disputed is None


def test_a_share_is_not_rounded_below_its_decimal_value(tmp_path: Path) -> None:
    """0.29 of 100 is 28.999999999999996 in floats."""
    stats = DatasetStats(
        images={"train": 100, "val": 100}, size=(10, 10), labelled_share=1.0, labels=1.0, masked_splits=frozenset(),
        shard_images=10,
    )  # fmt: skip
    instance = prepared(tmp_path, share=0.29)
    assert stage_of(instance).planned_stats(instance, stats).images == {"train": 29, "val": 100}


def test_images_without_an_agreement_or_a_label_are_not_ranked(tmp_path: Path) -> None:
    gone = (Missing(key="b", reason="it has unknown classes", left_out=True),)
    instance = prepared(tmp_path, gone=gone, unlabelled=("d",), share=0.67)
    stage = stage_of(instance)
    stage.prepare(instance)
    made = {one.key: one for shard in stage.shards(instance) for one in stage.worker(instance)(shard)}
    assert [key for key, one in made.items() if isinstance(one, PseudoLabel)] == ["c", "e"]
    assert made["b"] == Missing(key="b", reason="agreement: it has unknown classes", left_out=True)
    assert made["d"] == Missing(key="d", reason="labels: it broke")
    assert stage.outcome(instance).metrics["kept.train.images"] == 2.0


def test_the_limit_is_reported(tmp_path: Path) -> None:
    instance = prepared(tmp_path, share=0.6)
    stage_of(instance).prepare(instance)
    outcome = stage_of(instance).outcome(instance)
    assert outcome.metrics == {"kept.train.images": 3.0, "kept.train.lowest_agreement": 0.7}
    assert outcome.notes == (
        "train: 3 of 5 images are kept; the label maps of each of them agree to a mean IoU of at least 70.0",
    )


def test_after_a_stop_the_bytes_are_the_same(tmp_path: Path) -> None:
    instance = prepared(tmp_path, share=0.6)
    here, resumed = (replace(instance, path=tmp_path / name) for name in ("here", "resumed"))
    LocalRuntime(RuntimeSettings()).map(here, stage_of(here), lambda *_: None)
    missing = [one for shard in (FIRST, SECOND) for one in here.layer.manifest_entry(shard).missing]
    assert [one.key for one in missing if one.left_out] == ["a", "e"]
    LocalRuntime(RuntimeSettings()).map(resumed, stage_of(resumed), lambda *_: None)
    before = (resumed.path / "limits.json").read_bytes()
    resumed.layer.manifest_path(SECOND).unlink()
    LocalRuntime(RuntimeSettings()).map(resumed, stage_of(resumed), lambda *_: None)
    assert (resumed.path / "limits.json").read_bytes() == before
    for shard in (FIRST, SECOND):
        assert here.layer.tar_path(shard).read_bytes() == resumed.layer.tar_path(shard).read_bytes()


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    ranking = instance.inputs["agreement"]
    unmeasured = replace(ranking, stage=MakeAgreedLabels())
    with pytest.raises(ValueError, match=r"inputs.agreement names make_agreed_labels, .*set its image_agreement = tru"):
        stage_of(instance).check(replace(instance, inputs={**instance.inputs, "agreement": unmeasured}))
    only_val = replace(ranking, stage=MakeAgreedLabels(image_agreement=True, splits=("val",)))
    with pytest.raises(ValueError, match=r"splits names 'train', which make_agreed_labels does not make \(val\); set "):
        stage_of(instance).check(replace(instance, inputs={**instance.inputs, "agreement": only_val}))
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="share"):
            KeepReliableLabels(share=share)


def test_an_agreement_of_fewer_shards_is_refused(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    values: Shards = {FIRST: [agreed(key, AGREEMENT[key]) for key in KEYS[FIRST]]}
    short = records_of(MakeAgreedLabels(image_agreement=True), tmp_path / "short", instance.inputs["samples"], values)
    few = replace(instance, inputs={**instance.inputs, "agreement": short})
    with pytest.raises(ValueError, match=r"make_agreed_labels has no shard train-000001; make .* without max_shards"):
        stage_of(few).prepare(few)
    one = KeepReliableLabels(max_shards=1)
    assert kept(replace(few, stage=one)) == ["b"]


def test_kept_labels_with_ignored_pixels_are_not_measured(tmp_path: Path) -> None:
    instance = prepared(tmp_path, splits=("train", "val"))
    ranking = instance.inputs["agreement"]
    first = replace(instance.inputs["labels"], name="first_labels")
    agreeing = replace(ranking, inputs={**ranking.inputs, "first": first})
    doubtful = replace(instance, inputs={**instance.inputs, "labels": agreeing})
    evaluating = instance_of(Evaluate(), tmp_path, samples=instance.inputs["samples"], records=doubtful)
    with pytest.raises(ValueError, match=r"cannot measure keep_reliable_labels, .*, such as first_labels, or the pred"):
        evaluating.stage.check(evaluating)
    measured = instance_of(Evaluate(), tmp_path, samples=instance.inputs["samples"], records=instance)
    measured.stage.check(measured)


RECIPE = """
recipe.name = "reliable"
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
[stages.agreed]
kind = "make_agreed_labels"
image_agreement = true
inputs = { first = "make_pseudo_labels", second = "higher" }
[stages.keep_reliable_labels]
INPUTS
[stages.train_segmenter]
"""


def test_in_a_recipe_the_segmenter_reads_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "reliable.toml"
    path.write_text(RECIPE.replace("INPUTS", 'inputs = { labels = "make_pseudo_labels", agreement = "agreed" }'))
    recipe = load_recipe(path)
    assert set(recipe.instance("keep_reliable_labels").inputs) == {"samples", "labels", "agreement"}
    assert recipe.instance("train_segmenter").inputs["pseudo_labels"].name == "keep_reliable_labels"
    path.write_text(RECIPE.replace("INPUTS", 'inputs = { labels = "make_pseudo_labels" }'))
    with pytest.raises(RecipeError, match=r"keep_reliable_labels reads agreement from .*inputs = \{ agreement"):
        load_recipe(path)
