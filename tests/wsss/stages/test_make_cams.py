from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shards.images import encode_png
from shards.records import CamRecord, Sample, grid_size
from tests.wsss.layers import instance_of, samples_of
from wsss.ops.grad_cam import METHODS
from wsss.stages.fit import weights_path
from wsss.stages.make_cams import MakeCams
from wsss.stages.stage import Instance
from wsss.stages.train_classifier import TrainClassifier

CLASSIFIER = TrainClassifier(encoder="test_efficientnet", pretrained="none", dilated=False)
SHARD = "val-000000"


def picture(key: str, classes: tuple[int, ...], *, size: tuple[int, int] = (70, 50)) -> Sample:
    seed = sum(key.encode())
    image = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Sample(key=key, encoded=encode_png(image), size=size, classes=classes, mask=None, position=0)


@pytest.fixture
def trained(tmp_path: Path) -> Instance:
    samples = samples_of(tmp_path, {SHARD: [picture("a", (4, 1)), picture("b", (2,), size=(33, 64)), picture("c", ())]})
    instance = instance_of(CLASSIFIER, tmp_path, samples=samples)
    instance.path.mkdir()
    torch.manual_seed(5)
    network = CLASSIFIER.model(instance, pretrained=True)
    with torch.no_grad():  # of a random network all probabilities are near one half
        network.head.weight.mul_(30)
    save_file(network.state_dict(), weights_path(instance))
    return instance


def make(trained: Instance, **settings: object) -> dict[str, CamRecord]:
    stage = MakeCams(**{"scales": (1.0, 0.5), **settings})
    instance = instance_of(stage, trained.path.parent, samples=trained.samples, classifier=trained)
    stage.check(instance)
    records = list(stage.worker(instance)(SHARD))
    assert all(isinstance(record, CamRecord) for record in records)
    return {record.key: record for record in records}  # type: ignore[misc]


def test_at_the_last_layer_cam_and_grad_cam_and_the_elementwise_form_are_one_map(trained: Instance) -> None:
    cams = make(trained)
    assert cams["a"].classes.tolist() == [4, 1] and cams["a"].maps.shape == (2, *grid_size((70, 50)))
    assert cams["a"].maps.max() > 0.9 and cams["c"].maps.shape[0] == 0
    for method in ("grad_cam", "elementwise_grad_cam"):
        for key, record in make(trained, method=method).items():
            np.testing.assert_allclose(record.maps, cams[key].maps, atol=2e-3)
    different = make(trained, method="grad_cam_pp")
    assert np.abs(different["a"].maps.astype(float) - cams["a"].maps).max() > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_an_earlier_layer_gives_other_maps(trained: Instance, method: str) -> None:
    last, earlier = make(trained, method=method), make(trained, method=method, target_layer="blocks.3")
    assert earlier["a"].maps.shape == last["a"].maps.shape
    assert np.abs(earlier["a"].maps.astype(float) - last["a"].maps).max() > 0.05
    assert earlier["a"].maps.min() >= 0 and earlier["a"].maps.max() <= 1


def test_mirror_images_give_mirrored_maps(trained: Instance) -> None:
    flipped = replace(trained.samples, name="flipped", path=trained.path.parent / "flipped")
    from tests.wsss.layers import write_layer

    image = picture("a", (4, 1)).image[:, ::-1]
    mirrored = replace(picture("a", (4, 1)), encoded=encode_png(image))
    write_layer(flipped.path, "sample", {SHARD: [mirrored]})
    other = replace(trained, inputs={"samples": flipped})
    stage = MakeCams(scales=(1.0,), method="grad_cam", target_layer="blocks.3")
    instance = instance_of(stage, trained.path.parent, samples=flipped, classifier=other)
    (record,) = stage.worker(instance)(SHARD)
    assert isinstance(record, CamRecord)
    straight = make(trained, method="grad_cam", target_layer="blocks.3", scales=(1.0,))["a"]
    np.testing.assert_allclose(record.maps[:, :, ::-1], straight.maps, atol=5e-3)


def test_global_normalisation_keeps_the_ratio_of_the_classes(trained: Instance) -> None:
    per_class, common = make(trained)["a"].maps, make(trained, normalisation="global")["a"].maps
    peaks = common.max(axis=(1, 2)).astype(float)
    assert peaks.max() > 0.99 and peaks.min() < 0.95
    np.testing.assert_allclose(common, per_class * peaks[:, None, None], atol=5e-3)


def test_images_without_labels_get_the_classes_that_are_predicted(trained: Instance) -> None:
    assert make(trained)["c"].classes.tolist() == []
    from wsss.images import to_tensor
    from wsss.stages.fit import load_trained

    x_3HW = to_tensor(picture("c", ()).image, mean=CLASSIFIER.mean, std=CLASSIFIER.std)
    with torch.no_grad():
        probability = torch.sigmoid(load_trained(trained)(x_3HW[None])[0])
    threshold = float(probability.sort().values[2:4].mean())
    records = make(trained, unlabelled_threshold=threshold)
    expected = [row + 1 for row in range(5) if probability[row] >= threshold]
    assert len(expected) == 2 and records["c"].classes.tolist() == expected
    assert records["c"].maps.shape[0] == 2 and records["a"].classes.tolist() == [4, 1]


def test_settings_that_do_not_fit(trained: Instance) -> None:
    with pytest.raises(ValueError, match=r"target_layer = 'blocks.2' is for grad_cam, .*method = 'cam' reads the last"):
        make(trained, target_layer="blocks.2")
    with pytest.raises(ValueError, match="method = 'stochastic' needs a classifier with head = 'stochastic'"):
        make(trained, method="stochastic")
    with pytest.raises(ValueError, match=r"no layer 'block.2'; there are 'last'"):
        make(trained, method="grad_cam", target_layer="block.2")
