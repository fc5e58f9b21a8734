"""make_cams with method = "lpcam": maps by their definition, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.records import CamRecord, Missing, grid_size
from tests.wsss.layers import instance_of
from tests.wsss.stages.test_make_cams import CLASSIFIER, picture
from tests.wsss.stages.test_make_prototypes import SHARDS, classifier_on, prepared, run
from wsss.contract.fit import load_trained
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.data.images import resize_image, to_tensor
from wsss.ops.cam import normalise_globally, normalise_per_class
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.prototype_cam import prototype_cam
from wsss.pipeline.recipe import RecipeError, load_recipe
from wsss.stages.classifier.prototype_file import load_directions
from wsss.stages.make_cams import MakeCams


def with_prototypes(path: Path, **settings: Any) -> Instance:
    """make_cams after a finished make_prototypes, whose classes 3 and 5 no image shows."""
    prototypes = prepared(path, prototype_threshold=0.3)
    run(prototypes)
    stage = MakeCams(**{"method": "lpcam", "scales": (1.0, 0.5), "splits": ("train",), **settings})
    inputs = {slot: prototypes.inputs[slot] for slot in ("samples", "classifier")}
    return instance_of(stage, path / "lpcam", **inputs, prototypes=prototypes)


def maps(instance: Instance, shard: str = "train-000000") -> dict[str, CamRecord]:
    assert isinstance(instance.stage, MakeCams)
    records = list(instance.stage.worker(instance)(shard))
    assert not [one for one in records if isinstance(one, Missing)]
    return {one.key: one for one in records if isinstance(one, CamRecord)}


@pytest.mark.parametrize("normalisation", ["per_class", "global"])
def test_maps_of_all_views_are_merged_as_for_other_methods(normalisation: str, tmp_path: Path) -> None:
    instance = with_prototypes(tmp_path, normalisation=normalisation)
    instance.stage.check(instance)
    network, directions = load_trained(instance.inputs["classifier"]), load_directions(instance.inputs["prototypes"])
    vectors = torch.stack([directions[4], directions[1]])
    image = to_tensor(picture("a", ()).image, mean=CLASSIFIER.mean, std=CLASSIFIER.std)[None]
    total = torch.zeros(2, *grid_size((70, 50)))
    for size in ((70, 50), (35, 32)):
        view = resize_image(image, size=size)
        for mirrored in (False, True):
            with torch.no_grad():
                features = network.features(view.flip(-1) if mirrored else view)[0]
            found = prototype_cam(features, directions_KD=vectors)
            total += resize_bilinear(found.flip(-1) if mirrored else found, size=grid_size((70, 50)))
    record = maps(instance)["a"]
    normalise = normalise_per_class if normalisation == "per_class" else normalise_globally
    np.testing.assert_allclose(record.maps, normalise(total), atol=5e-3)
    assert record.classes.tolist() == [4, 1] and record.maps.max() > 0.99
    assert record.probabilities is not None and len(record.probabilities) == 2
    plain = maps(replace(instance, stage=MakeCams(scales=(1.0, 0.5), splits=("train",))))["a"]
    assert np.abs(plain.maps.astype(float) - record.maps).max() > 0.1
    np.testing.assert_allclose(plain.probabilities, record.probabilities, atol=1e-3)  # type: ignore[arg-type]


def test_images_in_a_batch_get_what_each_gets_alone(tmp_path: Path) -> None:
    instance = with_prototypes(tmp_path)
    alone, together = (maps(replace(instance, stage=replace(instance.stage, batch_images=n))) for n in (1, 3))  # type: ignore[type-var]
    assert list(alone) == list(together) == ["a", "b", "c"] and len(alone["c"].maps) == 0
    for key, record in alone.items():
        np.testing.assert_allclose(together[key].maps, record.maps, atol=2e-3)


def test_a_class_without_a_prototype_has_a_map_of_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHARDS, "val-000000", [picture("g", (3, 1))])
    found = maps(with_prototypes(tmp_path, splits=("val",)), "val-000000")["g"]
    assert found.classes.tolist() == [3, 1]
    assert not found.maps[0].any() and found.maps[1].max() > 0.9


def test_inputs_and_settings_that_do_not_fit(tmp_path: Path) -> None:
    instance = with_prototypes(tmp_path)

    def refused(message: str, *, stage: Any = instance.stage, **inputs: Instance) -> None:
        changed = replace(instance, stage=stage, inputs={**instance.inputs, **inputs})
        with pytest.raises(ValueError, match=message):
            changed.stage.check(changed)

    trained = instance.inputs["classifier"]
    other = replace(classifier_on(tmp_path / "other", trained.samples), name="other", fingerprint="other")
    refused(
        r"make_prototypes has the prototypes of train_classifier, but classifier is other; name the", classifier=other
    )
    refused(r"'lpcam' has the prototypes of one classifier, so it cannot be used with second", second_classifier=other)
    crossed = replace(trained, stage=replace(CLASSIFIER, folds=2, fold=1))
    refused(r"'lpcam' has the prototypes of one network, but train_classifier is one of a cross", classifier=crossed)
    stochastic = replace(trained, stage=replace(CLASSIFIER, head="stochastic"))
    refused(r"method = 'lpcam' needs a classifier with head = 'linear'", classifier=stochastic)
    refused(r"target_layer = 'blocks.3' is only for", stage=replace(instance.stage, target_layer="blocks.3"))  # type: ignore[type-var]


def test_other_methods_read_no_prototypes_and_keep_their_fingerprint() -> None:
    assert MakeCams().used_slots() == ("samples", "classifier")
    assert MakeCams(second_classifier=True).used_slots() == ("samples", "classifier", "second_classifier")
    assert MakeCams(method="lpcam").used_slots() == ("samples", "classifier", "prototypes")
    assert "finest_stride" not in hashed_values(MakeCams(method="lpcam"))


RECIPE = """
recipe.name = "prototypes"
[stages.build_shards]
source = "toy"
counts = { train = 5, val = 5 }
[stages.train_classifier]
[stages.make_cams]
[stages.make_prototypes]
[stages.lpcam]
kind = "make_cams"
method = "lpcam"
[stages.make_seeds]
"""


def test_in_a_recipe_the_maps_with_prototypes_follow_those_that_they_are_made_from(tmp_path: Path) -> None:
    path = tmp_path / "prototypes.toml"
    path.write_text(RECIPE)
    recipe = load_recipe(path)
    made = {name: {s: i.name for s, i in recipe.instance(name).inputs.items()} for name in ("make_prototypes", "lpcam")}
    first = {"samples": "build_shards", "classifier": "train_classifier"}
    assert made == {
        "make_prototypes": first | {"cams": "make_cams"},
        "lpcam": first | {"prototypes": "make_prototypes"},
    }
    assert recipe.instance("make_seeds").inputs["cams"].name == "lpcam"
    fingerprint = recipe.instance("lpcam").fingerprint
    assert load_recipe(path, ["make_prototypes.num_clusters=7"]).instance("lpcam").fingerprint != fingerprint
    assert load_recipe(path, ["recipe.seed=9"]).instance("lpcam").fingerprint != fingerprint
    path.write_text(RECIPE.replace("[stages.make_prototypes]\n", ""))
    with pytest.raises(RecipeError, match="lpcam reads prototypes from make_prototypes, but there is no such instance"):
        load_recipe(path)
    path.write_text(RECIPE.replace('method = "lpcam"', 'method = "lpcam"\ninputs = { prototypes = "make_cams" }'))
    with pytest.raises(
        RecipeError, match=r"names make_cams, a make_cams; it takes class prototypes, from make_prototy"
    ):
        load_recipe(path)
    path.write_text(RECIPE.replace("[stages.train_classifier]", "[stages.train_classifier]\nfolds = 2"))
    with pytest.raises(RecipeError, match="is one of 2 of a cross-fitting; name a classifier without folds"):
        load_recipe(path)
