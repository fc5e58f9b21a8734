"""make_cams of a vision transformer: the stage's maps are those of its patch tokens, by every method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.wsss.layers import instance_of
from tests.wsss.stages.test_make_cams import make, picture, train_at_random
from wsss.contract.fit import load_trained
from wsss.contract.stage import Instance
from wsss.data.images import to_tensor
from wsss.ops.cam import normalise_per_class
from wsss.ops.patch_maps import from_patches
from wsss.stages.make_cams import MakeCams
from wsss.stages.train_classifier import TrainClassifier

CLASSIFIER = TrainClassifier(encoder="test_vit", pretrained="none", dilated=False)
ONE_VIEW: dict[str, object] = {"scales": (1.0,), "flip": False}


@pytest.fixture
def trained(tmp_path: Path) -> Instance:
    pictures = [picture("a", (4, 1)), picture("b", (2,), size=(33, 64)), picture("c", ())]
    return train_at_random(tmp_path, CLASSIFIER, pictures)


def test_cam_is_the_weights_times_the_patch_tokens(trained: Instance) -> None:
    network = load_trained(trained)
    image = to_tensor(picture("a", ()).image, mean=CLASSIFIER.mean, std=CLASSIFIER.std)
    with torch.no_grad():
        tokens = network.encoder.network.forward_features(image[None])[0, 1:]
        scores = torch.stack([tokens @ network.cam_weights[c - 1] for c in (4, 1)])
    maps = scores.relu().reshape(2, 5, 4)  # 70 x 50 pixels, extended to 80 x 64: 5 x 4 patches
    maps = from_patches(maps, patch=16, view=(70, 50), size=(18, 13))
    record = make(trained, **ONE_VIEW)["a"]
    np.testing.assert_allclose(record.maps, normalise_per_class(maps), atol=5e-3)
    assert record.classes.tolist() == [4, 1] and record.maps.max() > 0.9


def test_other_methods(trained: Instance) -> None:
    cams = make(trained)
    for method in ("grad_cam", "elementwise_grad_cam"):
        for key, record in make(trained, method=method).items():
            np.testing.assert_allclose(record.maps, cams[key].maps, atol=2e-3)
    for method in ("region_cam", "self_similarity"):
        found = make(trained, method=method)
        last = make(trained, method=method, finest_stride=32)  # without the stages of the blocks
        for key in ("a", "b"):
            assert found[key].maps.shape == cams[key].maps.shape and found[key].maps.min() >= 0
            assert np.abs(found[key].maps.astype(float) - cams[key].maps).max() > 0.02
            assert np.abs(found[key].maps.astype(float) - last[key].maps).max() > 0.005
        assert found["c"].maps.shape[0] == 0


def test_a_layer_of_tokens_is_refused_before_anything_runs(trained: Instance) -> None:
    stage = MakeCams(method="grad_cam", target_layer="blocks.4")
    instance = instance_of(stage, trained.path.parent, samples=trained.samples, classifier=trained)
    with pytest.raises(ValueError, match=r"target_layer = 'blocks.4': the encoder's layer 'blocks.4' gives tokens"):
        stage.check_environment(instance)
    with pytest.raises(ValueError, match=r"target_layer = 'block': the encoder has no layer 'block'"):
        replace(stage, target_layer="block").check_environment(instance)
