"""What a GPU must do as a CPU does it; run by `make test-all` where torch sees one, and named as not run elsewhere.

Results are compared with the CPU's within float rounding: convolutions add up in another order there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shards.reader import read_shard
from shards.records import CamRecord, Prediction
from tests.gpu.checks import CHECKS, Place
from tests.pipeline.chain import RECIPES, run, tiny
from wsss.contract.fit import weights_path
from wsss.data.images import to_tensor
from wsss.models.classifier import StochasticHead
from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf
from wsss.ops.random_walk import random_walk
from wsss.pipeline.recipe import Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: torch sees no GPU here"),
]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def records(recipe: Recipe, name: str) -> list[object]:
    layer = recipe.instance(name).layer
    return [record for shard in layer.shards() for record in read_shard(layer, shard)]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = tiny(tmp_path_factory.mktemp("cpu") / "runs", path=RECIPES / "tiny.toml")
    run(recipe, last="predict")
    return recipe


def on_gpu(on_cpu: Recipe, runs: Path, name: str) -> Recipe:
    """The same instance, made again on the GPU of what the CPU made before it."""
    from tests.pipeline.chain import copy_upstream

    recipe = tiny(runs, "runtime.actor_gpus=1", "runtime.num_actors=1", path=RECIPES / "tiny.toml")
    copy_upstream(on_cpu.instance(name), runs)
    run(recipe, first=name, last=name)
    return recipe


def test_maps_are_those_of_a_cpu(on_cpu: Recipe, tmp_path: Path) -> None:
    found = records(on_gpu(on_cpu, tmp_path / "runs", "make_cams"), "make_cams")
    wanted = records(on_cpu, "make_cams")
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, CamRecord) and isinstance(other, CamRecord) and one.key == other.key
        np.testing.assert_allclose(one.maps.astype(np.float32), other.maps.astype(np.float32), atol=5e-3)


def test_predictions_are_those_of_a_cpu(on_cpu: Recipe, tmp_path: Path) -> None:
    found = records(on_gpu(on_cpu, tmp_path / "runs", "predict"), "predict")
    for one, other in zip(found, records(on_cpu, "predict"), strict=True):
        assert isinstance(one, Prediction) and isinstance(other, Prediction) and one.key == other.key
        assert (one.mask == other.mask).mean() > 0.99


def test_a_layer_says_that_a_gpu_made_it(on_cpu: Recipe, tmp_path: Path) -> None:
    recipe = on_gpu(on_cpu, tmp_path / "runs", "make_cams")
    (where,) = recipe.instance("make_cams").layer.made_on()
    assert where.startswith("GPU ") and torch.cuda.get_device_name() in where


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_on_a_gpu_leaves_finite_weights_near_the_cpus(
    on_cpu: Recipe, tmp_path: Path, precision: str
) -> None:
    """One rank through NCCL. After so few steps weights differ by rounding alone; bf16 is only asked to learn."""
    from safetensors.torch import load_file

    short = ("train_classifier.num_epochs=1", f"train_classifier.precision={precision}")
    path = RECIPES / "tiny.toml"
    there = tiny(tmp_path / "gpu", "runtime.rank_gpus=1", *short, path=path)
    here = tiny(tmp_path / "cpu", *short, path=path)
    for recipe in (there, here):
        run(recipe, last="train_classifier")
    gpu, cpu = (load_file(weights_path(recipe.instance("train_classifier"))) for recipe in (there, here))
    for name, weight in gpu.items():
        assert torch.isfinite(weight.float()).all(), name
        if precision == "fp32":
            torch.testing.assert_close(weight, cpu[name], rtol=1e-2, atol=1e-3)


def test_the_dense_crf_is_that_of_a_cpu() -> None:
    image = (255 * drawn(41, 53, 3)).to(torch.uint8)
    energy = -torch.log(drawn(3, 41, 53, seed=1).softmax(0))
    kernels = {
        "gaussian": GaussianKernel(sxy=3.0, compat=3.0),
        "bilateral": BilateralKernel(sxy=50.0, srgb=5.0, compat=10.0),
        "num_iterations": 10,
    }
    there = dense_crf(energy.cuda(), image_HW3=image.cuda(), **kernels)
    torch.testing.assert_close(there.cpu(), dense_crf(energy, image_HW3=image, **kernels), rtol=0, atol=1e-4)


def test_the_random_walk_is_that_of_a_cpu() -> None:
    scores, edge = drawn(2, 47, 59), drawn(47, 59, seed=1) ** 2
    steps = {"radius": 5, "beta": 10.0, "num_steps_log2": 8}
    there = random_walk(scores.cuda(), edge_hw=edge.cuda(), **steps)
    torch.testing.assert_close(there.cpu(), random_walk(scores, edge_hw=edge, **steps), rtol=1e-3, atol=1e-5)


def test_a_copied_image_has_the_values_of_a_cpus() -> None:
    """Bytes are copied from pinned memory and normalised there; each operation is rounded as IEEE 754 says."""
    image = (255 * drawn(41, 53, 3)).to(torch.uint8).numpy()
    given = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    there = to_tensor(image, **given, device=torch.device("cuda"))  # type: ignore[arg-type]
    assert there.is_cuda and torch.equal(there.cpu(), to_tensor(image, **given))  # type: ignore[arg-type]


def test_a_stochastic_head_draws_the_masks_of_a_cpu() -> None:
    """Its logits in training, with masks drawn on the GPU, are the CPU's up to rounding."""
    head = StochasticHead(13, num_classes=5, kernel_size=3, drop_rate=0.9).train()
    features = drawn(2, 13, 11, 17)
    wanted = head(features, generator=torch.Generator().manual_seed(3))
    found = head.cuda()(features.cuda(), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(CHECKS))
def test_a_check_of_the_report_holds(name: str, tmp_path: Path) -> None:
    seen = CHECKS[name](Place("cuda", tmp_path, large=True, cpus=4))
    assert seen.ok, seen.text


def test_a_run_record_says_how_long_the_network_waited(on_cpu: Recipe, tmp_path: Path) -> None:
    record = on_gpu(on_cpu, tmp_path / "runs", "make_cams").instance("make_cams").run_record()
    assert record is not None and 0 <= record.work["idle_share"] <= 1 and record.work["gpus"] == 1
