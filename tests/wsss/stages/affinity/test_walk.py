"""IRNet's boundary map as the mean over several scales of the image: its definition, the walk along it, the setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from shards.images import encode_png
from shards.records import CamRecord, Sample, ScoreRecord
from tests.wsss.layers import instance_of, records_of, samples_of
from wsss.contract.fit import load_trained, weights_path
from wsss.contract.settings import hashed_values, inactive_settings
from wsss.contract.stage import Instance
from wsss.data.images import resize_image, to_tensor
from wsss.ops.random_walk import random_walk
from wsss.stages.affinity.walk import edge_probability, walk_of
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_scores import MakeScores
from wsss.stages.settings.views import edge_view_sizes
from wsss.stages.train_affinity import TrainAffinity

SIZE, GRID = (43, 54), (11, 14)
SHARD = "train-000000"
SCALES = (1.0, 0.75, 2.0)
STEPS: dict[str, Any] = {"radius": 3, "beta": 8.0, "num_steps_log2": 3}


class Boundaries(nn.Module):
    """A network of random weights with boundary logits on the stride-4 grid, which differ in the mirror image."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = torch.randn(1, 3, 3, 3, generator=generator) / 3

    def edge_logits(self, image_B3HW: Tensor) -> Tensor:
        logits = functional.conv2d(image_B3HW, self.weight, stride=4, padding=1)
        return logits + torch.linspace(-1, 1, logits.shape[-1])


def pictures(number: int = 2) -> Tensor:
    return torch.randn(number, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def by_definition(network: Any, x: Tensor, scales: tuple[float, ...]) -> Tensor:
    """One scale and one image after the other."""
    maps = []
    for image in x:
        total = torch.zeros(GRID)
        for scale in scales:
            size = tuple(max(32, int(side * scale + 0.5)) for side in SIZE) if scale != 1 else SIZE
            view = functional.interpolate(image[None], size=size, mode="bicubic", antialias=True)
            view = image[None] if scale == 1 else view
            logits = (network.edge_logits(view) + network.edge_logits(view.flip(-1)).flip(-1)) / 2
            total += functional.interpolate(logits, size=GRID, mode="bilinear", antialias=True)[0, 0] / len(scales)
        maps.append(1 / (1 + torch.exp(-total)))
    return torch.stack(maps)


@pytest.mark.parametrize("scales", [(1.0,), (0.75,), SCALES])
def test_the_boundary_map_by_its_definition(scales: tuple[float, ...]) -> None:
    network: Any = Boundaries()
    found = edge_probability(network, pictures(), scales=scales)
    assert found.shape == (2, *GRID) and found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(found, by_definition(network, pictures(), scales))


def test_scale_one_alone_is_what_it_was_and_scales_count_as_often_as_they_are_given() -> None:
    network: Any = Boundaries()
    x = pictures()
    upright, mirrored = network.edge_logits(torch.cat([x, x.flip(-1)])).chunk(2)
    own = torch.sigmoid((upright + mirrored.flip(-1)) / 2)[:, 0]
    assert torch.equal(edge_probability(network, x), own)
    assert torch.equal(edge_probability(network, x, scales=(1.0,)), own)
    torch.testing.assert_close(edge_probability(network, x, scales=(1.0, 1.0)), own)
    mixed = edge_probability(network, x, scales=(1.0, 2.0))
    assert (mixed - own).abs().max() > 0.02
    torch.testing.assert_close(edge_probability(network, x, scales=(2.0, 1.0)), mixed)
    assert (edge_probability(network, x, scales=(1.0, 2.0, 2.0)) - mixed).abs().max() > 1e-3


def test_equal_logits_at_every_scale_are_the_mean_and_a_mean_of_logits_is_taken_before_the_sigmoid() -> None:
    class Flat(nn.Module):
        def edge_logits(self, image: Tensor) -> Tensor:
            value = 1.0 if image.shape[-1] == SIZE[1] else 3.0
            return torch.full((len(image), 1, -(-image.shape[-2] // 4), -(-image.shape[-1] // 4)), value)

    network: Any = Flat()
    found = edge_probability(network, pictures(), scales=(1.0, 2.0))
    torch.testing.assert_close(found, torch.full((2, *GRID), 1 / (1 + np.exp(-2.0)), dtype=torch.float32))


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-1.0,)])
def test_scales_that_are_none_are_refused(scales: tuple[float, ...]) -> None:
    network: Any = Boundaries()
    with pytest.raises(ValueError, match="one or more positive numbers"):
        edge_probability(network, pictures(), scales=scales)


def test_sizes_of_the_views() -> None:
    assert edge_view_sizes((375, 500), scales=(0.5, 1.0, 1.5)) == [(188, 250), (375, 500), (563, 750)]
    assert edge_view_sizes((100, 40), scales=(0.5, 1.0)) == [(50, 32), (100, 40)]
    assert edge_view_sizes((20, 7), scales=(1.0, 2.0)) == [(20, 7), (40, 32)], "at scale 1 nothing is resized"


def prepared(path: Path, *, network: Any = "irnet", **settings: Any) -> Instance:
    """make_scores on one drawn image and an affinity network of random weights."""
    picture = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    maps = np.random.default_rng(1).random((2, *GRID)).astype(np.float16)
    classes, sure = np.array([2, 5], np.int16), np.array([0.9, 0.9], np.float16)
    one = Sample(key="a", encoded=encode_png(picture), size=SIZE, classes=(2, 5), position=0)
    cam = CamRecord(key="a", classes=classes, maps=maps, probabilities=sure, size=SIZE)
    samples = samples_of(path, {SHARD: [one]})
    cams = records_of(MakeCams(), path, samples, {SHARD: [cam]})
    stage = TrainAffinity(network=network, output_stride=8, encoder="test_efficientnet", pretrained="none")
    trained = instance_of(stage, path, samples=samples)
    trained.path.mkdir(parents=True)
    torch.manual_seed(3)
    model: Any = stage.model(trained, pretrained=True)
    if network == "irnet":
        model.edge.join.weight.data.mul_(4)  # boundaries that are strong enough to change the walk
    save_file(model.state_dict(), weights_path(trained))
    made = {"samples": samples, "cams": cams, "affinity": trained}
    made |= {"second_affinity": trained} if settings.get("second_affinity") else {}
    return instance_of(MakeScores(**(STEPS | settings)), path, **made)


def scores(instance: Instance) -> np.ndarray:
    assert isinstance(instance.stage, MakeScores)
    (record,) = instance.stage.worker(instance)(SHARD)
    assert isinstance(record, ScoreRecord)
    return record.scores.astype(float)


@pytest.mark.parametrize("long_side", [0, 96])
def test_scores_walk_along_the_mean_of_the_scales(long_side: int, tmp_path: Path) -> None:
    instance = prepared(tmp_path, edge_scales=SCALES, long_side=long_side)
    trained = instance.inputs["affinity"]
    assert isinstance(trained.stage, TrainAffinity)
    picture = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    planes = torch.from_numpy(np.random.default_rng(1).random((2, *GRID)).astype(np.float16)).float()
    x = to_tensor(picture, mean=trained.stage.mean, std=trained.stage.std)[None]
    with torch.no_grad():
        if long_side:
            x = resize_image(x, size=(76, 96))
            planes = functional.interpolate(planes[None], size=(19, 24), mode="bilinear", antialias=True)[0]
        edge = edge_probability(load_trained(trained), x, scales=SCALES)[0]
    walked = random_walk(planes, edge_hw=edge, **STEPS)
    if long_side:
        walked = functional.interpolate(walked[None], size=GRID, mode="bilinear", antialias=True)[0]
    fine = functional.interpolate(walked[None], scale_factor=4, mode="bilinear")[0, :, : SIZE[0], : SIZE[1]]
    found = scores(instance)
    np.testing.assert_allclose(found, (walked / fine.max()).numpy(), atol=2e-3)
    assert np.abs(found - scores(prepared(tmp_path / "own", long_side=long_side))).max() > 5e-3


def test_two_networks_have_their_scales_averaged_too(tmp_path: Path) -> None:
    """Twice the same network is one network."""
    one = scores(prepared(tmp_path / "one", edge_scales=SCALES))
    np.testing.assert_allclose(
        scores(prepared(tmp_path / "two", edge_scales=SCALES, second_affinity=True)), one, atol=1e-3
    )


def test_several_images_in_a_batch_are_walked_as_each_alone(tmp_path: Path) -> None:
    walk = walk_of(prepared(tmp_path).inputs["affinity"], **STEPS, edge_scales=SCALES)
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8) for _ in range(2)]
    planes = torch.rand(2, 2, *GRID, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        together = walk(images, planes)
        alone = torch.cat([walk([image], planes[place][None]) for place, image in enumerate(images)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_affinitynet_has_no_boundaries_to_average(tmp_path: Path) -> None:
    instance = prepared(tmp_path, network="affinitynet", edge_scales=SCALES)
    with pytest.raises(ValueError, match=r"make_scores.edge_scales = \[1.0, 0.75, 2.0\] averages IRNet's.*remove edge"):
        instance.stage.check(instance)
    prepared(tmp_path / "own", network="affinitynet").stage.check(instance)
    irnet = prepared(tmp_path / "irnet", edge_scales=SCALES)
    irnet.stage.check(irnet)


def test_the_scale_of_the_image_alone_enters_no_fingerprint() -> None:
    assert "edge_scales" not in hashed_values(MakeScores())
    assert "edge_scales" not in hashed_values(MakeScores(edge_scales=(1.0,)))
    assert hashed_values(MakeScores(edge_scales=(1.0, 2.0)))["edge_scales"] == [1.0, 2.0]
    assert "edge_scales" in inactive_settings(MakeScores(edge_scales=(1.0, 2.0), propagation="none"))


def test_scales_outside_the_sizes_of_training_are_noted(tmp_path: Path) -> None:
    (note,) = cautions(tmp_path, (1.0, 2.0))
    assert note.startswith("make_scores.edge_scales: 2 makes a longer side of 108 pixels, but train_affinity learned")
    assert cautions(tmp_path / "own", (1.0,)) == []


def cautions(path: Path, scales: tuple[float, ...]) -> list[str]:
    instance = prepared(path, edge_scales=scales, splits=("train",))
    stage = TrainAffinity(resize_long=(40, 60), encoder="test_efficientnet", pretrained="none")
    affinity = instance_of(stage, path, samples=instance.inputs["samples"])
    return instance.stage.cautions(
        instance_of(instance.stage, path, **(dict(instance.inputs) | {"affinity": affinity}))
    )
