"""train_affinity: refusals, seeds on the network's grid, and ranks that give one loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.local import LocalRuntime
from shards.images import encode_png
from shards.records import Sample, SeedRecord
from tests.wsss.layers import instance_of, records_of, samples_of
from wsss.contract.fit import Draw, load_trained
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance, Outcome
from wsss.models.affinitynet import AffinityNet
from wsss.models.irnet import IRNet
from wsss.stages.make_seeds import MakeSeeds
from wsss.stages.train_affinity import TrainAffinity

SHARD = "train-000000"
SMALL: dict[str, Any] = {
    "encoder": "test_efficientnet",
    "pretrained": "none",
    "crop_size": 64,
    "resize_long": (64, 64),
    "radius": 3,
    "batch_size": 4,
    "num_epochs": 2,
    "mean_shift_images": 1,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "irnet": {},
    "affinitynet": {"network": "affinitynet", "output_stride": 8, "grid_labels": "pixels"},
}


def prepared(path: Path, **settings: Any) -> Instance:
    """Five images; of each another share is seeded, so that the mean of two ranks' means is not the mean."""
    path.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    samples, seeds = [], []
    for number in range(5):
        image = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        key = f"k{number}"
        samples.append(Sample(key=key, encoded=encode_png(image), size=(64, 64), classes=(1,), position=number))
        label = np.full((64, 64), 255, np.uint8)
        label[:, : 10 + 12 * number] = 0
        label[8:40, 8:30] = 1 + number % 2
        seeds.append(SeedRecord(key=key, label=label))
    made = samples_of(path, {SHARD: samples})
    seeded = records_of(MakeSeeds(splits=("train",)), path, made, {SHARD: seeds})
    return instance_of(TrainAffinity(**{**SMALL, **settings}), path, samples=made, seeds=seeded)


def train(instance: Instance) -> Outcome:
    instance.path.mkdir(parents=True, exist_ok=True)
    assert isinstance(instance.stage, TrainAffinity)
    instance.stage.check(instance)
    return LocalRuntime(RuntimeSettings(runs=instance.path)).fit(instance, instance.stage, lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_two_ranks_give_the_losses_of_one(tmp_path: Path, network: str) -> None:
    one = prepared(tmp_path / "one", **NETWORKS[network])
    two = prepared(tmp_path / "two", **NETWORKS[network], world_size=2)
    losses = [[row["loss"] for row in train(instance).tables["history"]] for instance in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] != losses[0][1]
    ones, twos = load_trained(one), load_trained(two)
    assert isinstance(ones, {"irnet": IRNet, "affinitynet": AffinityNet}[network])
    moved = dict(ones.named_parameters())
    for name, value in twos.named_parameters():
        torch.testing.assert_close(value, moved[name], rtol=1e-3, atol=1e-4, msg=name)


def test_strong_augmentation_is_a_setting(tmp_path: Path) -> None:
    instances = [prepared(tmp_path / name, augmentation=name) for name in ("weak", "strong")]
    weak, strong = (
        [instance.stage.training_set(instance).example(Draw(n, 0)) for n in range(5)]  # type: ignore[attr-defined]
        for instance in instances
    )
    assert sum(not torch.equal(a["image"], b["image"]) for a, b in zip(weak, strong, strict=True)) >= 4
    assert any(not torch.equal(a["label"], b["label"]) for a, b in zip(weak, strong, strict=True)), "it is rotated too"
    assert all(set(example["label"].unique().tolist()) <= {0, 1, 2, 255} for example in strong)
    by_default, hashed = (hashed_values(instance.stage) for instance in instances)
    assert "augmentation" not in by_default and hashed["augmentation"] == "strong"


@pytest.mark.parametrize(("network", "grid"), [("irnet", 16), ("affinitynet", 8)])
def test_seeds_lie_on_the_networks_grid(tmp_path: Path, network: str, grid: int) -> None:
    instance = prepared(tmp_path, **NETWORKS[network])
    assert isinstance(instance.stage, TrainAffinity)
    example = instance.stage.training_set(instance).example(Draw(0, 0))
    assert example["label"].shape == (grid, grid)
    assert set(example["label"].unique().tolist()) <= {0, 1, 2, 255}


@pytest.mark.parametrize("network", NETWORKS)
def test_colours_change_only_the_image(tmp_path: Path, network: str) -> None:
    plain, jittered = (
        prepared(tmp_path / str(jitter), **NETWORKS[network], colour_jitter=jitter) for jitter in (0.0, 0.9)
    )
    assert isinstance(plain.stage, TrainAffinity) and isinstance(jittered.stage, TrainAffinity)
    one, other = (i.stage.training_set(i) for i in (plain, jittered))  # type: ignore[attr-defined]
    examples = [(one.example(Draw(index, 0)), other.example(Draw(index, 0))) for index in range(5)]
    assert all(torch.equal(a["label"], b["label"]) for a, b in examples)
    assert sum(not torch.equal(a["image"], b["image"]) for a, b in examples) > 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "affinitynet"}, r"output_stride = 16: network = 'affinitynet' needs .* set output_stride = 8"),
        (
            {**NETWORKS["affinitynet"], "encoder": "vgg16_npa", "levels": "conv4_conv5_fc7"},
            r"train_affinity.levels = 'conv4_conv5_fc7', but train_affinity.encoder = 'vgg16_npa' has no fc7; "
            r"set train_affinity.encoder = 'vgg16_affinitynet', or train_affinity.levels = 'last'",
        ),
        (
            {**NETWORKS["affinitynet"], "encoder": "vgg16_affinitynet", "levels": "conv4_conv5_conv6"},
            r"encoder = 'vgg16_affinitynet' has no conv6; set train_affinity.encoder = 'resnet38', or "
            r"train_affinity.levels = 'conv4_conv5_fc7' or 'last'",
        ),
        (
            {"network": "affinitynet", "output_stride": 8},
            r"train_affinity.grid_labels = 'pooled_scores' needs the scores of make_seeds; set make_seeds.rule = "
            r"'exponents' and make_seeds.keep_scores = true, or train_affinity.grid_labels = 'pixels'",
        ),
        ({"norm": "batch"}, r"norm = 'batch': network = 'irnet' does not train its encoder; set 'frozen'"),
        ({"radius": 10}, r"radius = 10 leaves no pair inside a crop of 16 x 16 .* crop_size above 72"),
        (
            {**NETWORKS["affinitynet"], "radius": 5},
            r"radius = 5 leaves no pair inside a crop of 8 x 8 pixels of stride 8; set crop_size above 64",
        ),
    ],
)
def test_refusals(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    instance = prepared(tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        instance.stage.check(instance)


@pytest.mark.parametrize(
    ("levels", "encoder", "norms"), [("conv4_conv5_fc7", "vgg16_affinitynet", 3), ("conv4_conv5_conv6", "resnet38", 0)]
)
def test_published_levels(tmp_path: Path, levels: str, encoder: str, norms: int) -> None:
    """VGG16's levels are normalised, ResNet-38's are not; both fit a stage whose settings are checked."""
    settings = {**NETWORKS["affinitynet"], "encoder": encoder, "levels": levels}
    instance = prepared(tmp_path, **settings, crop_size=96, radius=5)
    assert isinstance(instance.stage, TrainAffinity)
    instance.stage.check(instance)
    instance.stage.check_environment(instance)
    with torch.device("meta"):
        network = instance.stage.model(instance, pretrained=False)
    assert sum(isinstance(layer, torch.nn.GroupNorm) for layer in network.modules()) == norms
