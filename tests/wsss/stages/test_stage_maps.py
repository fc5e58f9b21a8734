"""make_cams with the features of all stages, and what is done to normalised maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.wsss.layers import instance_of
from tests.wsss.stages.test_make_cams import CLASSIFIER, make, picture, train_at_random
from wsss.contract.fit import load_trained
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.data.images import resize_image, to_tensor
from wsss.models.classifier import Classifier
from wsss.ops.cam import class_activation_map, normalise_per_class
from wsss.ops.flatten_peaks import flatten_peaks, largest_scale
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.region_cam import region_cam
from wsss.ops.relative_maps import relative_to_others
from wsss.ops.self_similarity import self_similarity_cam
from wsss.stages.make_cams import MakeCams

STAGED = ("region_cam", "self_similarity")
ONE_VIEW: dict[str, object] = {"scales": (1.0,), "flip": False}


@pytest.fixture
def trained(tmp_path: Path) -> Instance:
    pictures = [picture("a", (4, 1)), picture("b", (2,), size=(33, 64)), picture("c", ())]
    return train_at_random(tmp_path, CLASSIFIER, pictures)


def map_by_definition(network: Classifier, view_3HW: torch.Tensor, method: str, finest: int) -> torch.Tensor:
    """One view's map of classes 4 and 1, from the graph of the whole network."""
    strides, pyramid = network.encoder.pyramid_strides, network.encoder.pyramid(view_3HW[None])
    last = network.features(view_3HW[None])[0]
    cam = class_activation_map(last, weights_CD=network.cam_weights, classes=[4, 1]).detach()
    chosen = [place for place, stride in enumerate(strides) if stride >= finest]
    features = [pyramid[place][0].detach() for place in chosen] + [last.detach()]
    if method == "self_similarity":
        return self_similarity_cam(cam, features=features)
    x, intermediates = network.encoder.last_and_pyramid(view_3HW[None].requires_grad_())
    evidence = []
    for place in chosen:
        gradients = [
            torch.autograd.grad(network.logits(x)[0, c - 1], intermediates[place], retain_graph=True) for c in (4, 1)
        ]
        evidence.append(torch.stack([g[0].clamp_min(0).sum(dim=0) for (g,) in gradients]))
    return region_cam(features, evidence=[*evidence, cam])


@pytest.mark.parametrize(("method", "finest"), [("region_cam", 4), ("self_similarity", 4), ("region_cam", 16)])
def test_maps_of_all_views_are_merged_as_for_other_methods(trained: Instance, method: str, finest: int) -> None:
    network = load_trained(trained)
    image = to_tensor(picture("a", ()).image, mean=CLASSIFIER.mean, std=CLASSIFIER.std)
    total = torch.zeros(2, 18, 13)
    for size in ((70, 50), (35, 32)):
        view = resize_image(image[None], size=size)[0]
        for mirrored in (False, True):
            found = map_by_definition(network, view.flip(-1) if mirrored else view, method, finest)
            total += resize_bilinear(found.flip(-1) if mirrored else found, size=(18, 13))
    record = make(trained, method=method, finest_stride=finest)["a"]
    np.testing.assert_allclose(record.maps, normalise_per_class(total), atol=5e-3)
    assert record.classes.tolist() == [4, 1] and record.maps.max() > 0.99 and record.maps.min() >= 0


@pytest.mark.parametrize("method", STAGED)
def test_they_differ_from_cam_and_with_the_finest_stage(trained: Instance, method: str) -> None:
    cams, found = make(trained, **ONE_VIEW), make(trained, method=method, **ONE_VIEW)
    coarse = make(trained, method=method, finest_stride=16, **ONE_VIEW)
    for key in ("a", "b"):
        assert np.abs(found[key].maps.astype(float) - cams[key].maps).max() > 0.1
        assert np.abs(found[key].maps.astype(float) - coarse[key].maps).max() > 0.05
    assert found["c"].maps.shape[0] == 0


def test_flattened_maps_are_the_normalised_ones_to_a_smaller_power(trained: Instance) -> None:
    plain, flat = make(trained, **ONE_VIEW)["a"].maps, make(trained, flatten=0.3, **ONE_VIEW)["a"].maps
    wanted = flatten_peaks(torch.from_numpy(plain).float(), scale=0.3, threshold=0.05)
    np.testing.assert_allclose(flat, wanted, atol=2e-3)
    assert (flat.astype(float) - plain).max() > 0.02
    higher = make(trained, flatten=0.3, flatten_above=0.5, **ONE_VIEW)["a"].maps
    assert np.abs(higher.astype(float) - flat).max() > 0.01


def test_maps_relative_to_each_other_after_they_are_flattened(trained: Instance) -> None:
    plain, relative = make(trained), make(trained, relative_to_others=True)
    wanted = relative_to_others(torch.from_numpy(plain["a"].maps).float())
    np.testing.assert_allclose(relative["a"].maps, wanted, atol=2e-3)
    np.testing.assert_array_equal(relative["b"].maps, plain["b"].maps)
    assert relative["c"].maps.shape[0] == 0
    both = make(trained, relative_to_others=True, flatten=0.4)["a"].maps
    flat = make(trained, flatten=0.4)["a"].maps
    np.testing.assert_allclose(both, relative_to_others(torch.from_numpy(flat).float()), atol=2e-3)


def test_maps_of_two_classifiers_are_relative_to_each_other(trained: Instance, tmp_path: Path) -> None:
    name = trained.taxonomy.name_of(4)
    dropping = replace(trained, stage=replace(CLASSIFIER, dropped_classes=(name,)))
    person = train_at_random(tmp_path / "second", replace(CLASSIFIER, only_classes=(name,)), [], seed=9)

    def maps(**settings: bool) -> np.ndarray:
        stage = MakeCams(scales=(1.0,), second_classifier=True, **settings)
        named = {"samples": trained.samples, "classifier": dropping, "second_classifier": person}
        first = next(iter(stage.worker(instance_of(stage, tmp_path, **named))("val-000000")))
        return first.maps  # type: ignore[union-attr, no-any-return]

    wanted = relative_to_others(torch.from_numpy(maps()).float())
    assert len(wanted) == 2
    np.testing.assert_allclose(maps(relative_to_others=True), wanted, atol=2e-3)


def test_results_from_before_these_settings_keep_their_fingerprint() -> None:
    new = {"finest_stride", "flatten", "flatten_above", "relative_to_others"}
    for method in ("cam", "grad_cam", "stochastic"):
        assert not new & set(hashed_values(MakeCams(method=method, finest_stride=8, flatten_above=0.2)))
    assert hashed_values(MakeCams(method="region_cam", finest_stride=8))["finest_stride"] == 8
    assert new & set(hashed_values(MakeCams(flatten=0.3))) == {"flatten", "flatten_above"}
    assert new & set(hashed_values(MakeCams(relative_to_others=True))) == {"relative_to_others"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "region_cam", "target_layer": "blocks.3"},
            r"method = 'region_cam' reads every stage of the encoder",
        ),
        (
            {"method": "self_similarity", "normalisation": "global"},
            r"'global' cannot be used with method = 'self_simil",
        ),
        ({"method": "stochastic", "flatten": 0.3}, r"flatten = 0.3 cannot be used with method = 'stochastic'"),
        ({"method": "stochastic", "relative_to_others": True}, r"make_cams.relative_to_others = true cannot be used"),
        (
            {"method": "stochastic", "square_root": True},
            r"make_cams.square_root = true cannot be used with method = 'st",
        ),
        (
            {"flatten": 0.48},
            r"make_cams.flatten = 0.48 with flatten_above = 0.05; allowed: 0 \(off\) or more, below 0.47",
        ),
    ],
)
def test_settings_that_do_not_fit(trained: Instance, settings: dict[str, object], message: str) -> None:
    head = "stochastic" if settings.get("method") == "stochastic" else "linear"
    with pytest.raises(ValueError, match=message):
        make(replace(trained, stage=replace(CLASSIFIER, head=head)), **settings)


@pytest.mark.parametrize("method", STAGED)
def test_a_stochastic_head_has_no_activation_map(trained: Instance, method: str) -> None:
    with pytest.raises(ValueError, match=rf"make_cams.method = '{method}' needs a classifier with head = 'linear'"):
        make(replace(trained, stage=replace(CLASSIFIER, head="stochastic")), method=method)


def test_the_limit_of_flatten_is_the_operations(trained: Instance) -> None:
    """The stage computes it without torch."""
    for above in (0.01, 0.05, 0.1):
        limit = largest_scale(above)
        stage = MakeCams(flatten=limit * 0.9999, flatten_above=above)
        stage.check(instance_of(stage, trained.path.parent, samples=trained.samples, classifier=trained))
        beyond = replace(stage, flatten=limit * 1.0001)
        with pytest.raises(ValueError, match="flatten_above"):
            beyond.check(instance_of(beyond, trained.path.parent, samples=trained.samples, classifier=trained))
