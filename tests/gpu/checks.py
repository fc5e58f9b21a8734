"""What `tests.gpu.report` measures: each check compares a device with the CPU and returns what it saw.

Every check runs on the CPU as well, in small, so that the script itself is tested where there is no GPU.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cluster import shard_work
from cluster.local import LocalRuntime
from cluster.shard_work import ShardExecutor
from shards.reader import read_shard
from shards.records import CamRecord, Sample
from tests.cluster.tiny import TinyFit, instance_of
from tests.wsss.layers import instance_of as stage_instance
from tests.wsss.layers import samples_of
from wsss.contract import device as devices
from wsss.contract.fit import WEIGHTS, weights_path
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.shard_times import read_times
from wsss.contract.stage import Instance
from wsss.ops import compiled_philox
from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf
from wsss.ops.kept_draws import DrawKey, draw_kept, field_of, kept_planes
from wsss.ops.random_walk import random_walk
from wsss.ops.stochastic_cam import stochastic_cam
from wsss.stages.make_cams import MakeCams
from wsss.stages.train_classifier import TrainClassifier

KEY = DrawKey((0x12345678, 0x9ABCDEF0))
SHARD = "val-000000"


@dataclass(frozen=True)
class Place:
    """Where the checks run, and how large their inputs are."""

    device: str
    folder: Path
    large: bool
    """True: sizes that say something about speed."""
    cpus: int = 2

    @property
    def gpus(self) -> int:
        return int(self.device != "cpu")

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if self.gpus:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], *, repetitions: int = 3) -> float:
        """Of the fastest repetition, after one that is not counted."""
        times = []
        for _ in range(repetitions + 1):
            begun = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - begun)
        return min(times[1:])


@dataclass(frozen=True)
class Seen:
    """The result of a check."""

    ok: bool
    text: str


def masks(place: Place) -> Seen:
    """Draws from a counter: bits of the device's torch are those of the CPU's compiled loop."""
    size = 81 * 41 * 41 if place.large else 1009
    for drop_rate in (0.5, 0.75, 0.9):
        bits, least = field_of(drop_rate)
        draw = {"key": KEY.words, "first": 7, "num_samples": 3, "bits": bits, "least": least}
        there = kept_planes(size, **draw, device=place.device).cpu()  # type: ignore[arg-type]
        if not torch.equal(there, torch.from_numpy(compiled_philox.kept_planes(size, **draw))):  # type: ignore[arg-type]
            return Seen(False, f"other bits at a rate of {drop_rate}")
    samples = 200 if place.large else 3
    took = place.seconds(
        lambda: draw_kept(size, drop_rate=0.9, key=KEY, num_samples=samples, device=place.device), repetitions=2
    )
    return Seen(True, f"equal; {samples} samples of {size} draws in {1e3 * took:.1f} ms")


def stochastic_maps(place: Place) -> Seen:
    """FickleNet's mean and peak of 200 maps."""
    channels, size, samples = (512, (41, 41), 200) if place.large else (7, (5, 11), 5)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(channels, *size, generator=generator).relu_()
    weights = torch.randn(3, channels, 9, 9, generator=generator) * 0.01
    draw = {"classes": [3, 1], "num_samples": samples, "drop_rate": 0.9, "key": KEY}
    wanted = stochastic_cam(features, weights_CDss=weights, **draw)  # type: ignore[arg-type]
    there = [one.to(place.device) for one in (features, weights)]
    found = stochastic_cam(there[0], weights_CDss=there[1], **draw)  # type: ignore[arg-type]
    error = max(float((one.cpu() - other).abs().max()) for one, other in zip(found, wanted, strict=True))
    took = place.seconds(lambda: stochastic_cam(there[0], weights_CDss=there[1], **draw))  # type: ignore[arg-type]
    return Seen(error < 1e-3, f"largest difference {error:.0e}; {samples} maps of 2 classes in {1e3 * took:.1f} ms")


def crf(place: Place) -> Seen:
    """The dense CRF in torch against the compiled loops."""
    height, width = (375, 500) if place.large else (41, 53)
    generator = torch.Generator().manual_seed(1)
    image = (255 * torch.rand(height, width, 3, generator=generator)).to(torch.uint8)
    energy = -torch.log(torch.rand(3, height, width, generator=generator).softmax(0))
    kernels = {
        "gaussian": GaussianKernel(sxy=3.0, compat=3.0),
        "bilateral": BilateralKernel(sxy=50.0, srgb=5.0, compat=10.0),
        "num_iterations": 10,
        "in_torch": True,
    }
    there = (energy.to(place.device), image.to(place.device))
    found = dense_crf(there[0], image_HW3=there[1], **kernels)  # type: ignore[arg-type]
    wanted = dense_crf(energy, image_HW3=image, **{**kernels, "in_torch": False})  # type: ignore[arg-type]
    error = float((found.cpu() - wanted).abs().mean())
    took = place.seconds(lambda: dense_crf(there[0], image_HW3=there[1], **kernels))  # type: ignore[arg-type]
    return Seen(error < 1e-5, f"mean difference {error:.0e}; {height} x {width}, 3 labels in {1e3 * took:.0f} ms")


def walk(place: Place) -> Seen:
    """The random walk."""
    size = (94, 125) if place.large else (23, 29)
    scores = torch.rand(2, *size, generator=torch.Generator().manual_seed(2))
    edge = torch.rand(size, generator=torch.Generator().manual_seed(3)) ** 2
    steps = {"radius": 5, "beta": 10.0, "num_steps_log2": 8}
    there = (scores.to(place.device), edge.to(place.device))
    found = random_walk(there[0], edge_hw=there[1], **steps)  # type: ignore[arg-type]
    error = float((found.cpu() - random_walk(scores, edge_hw=edge, **steps)).abs().max())  # type: ignore[arg-type]
    took = place.seconds(lambda: random_walk(there[0], edge_hw=there[1], **steps))  # type: ignore[arg-type]
    return Seen(error < 1e-3, f"largest difference {error:.0e}; {size[0]} x {size[1]} in {1e3 * took:.0f} ms")


def maps(place: Place) -> Seen:
    """make_cams with decoding and writing beside the network, against the CPU's maps of the same images."""
    trained = classifier(place, num_images=192 if place.large else 6)
    made = make_maps(place, trained, name="beside", batch_images=8 if place.large else 2)
    few = make_maps(replace(place, device="cpu"), trained, name="alone", batch_images=1, limit=4)
    error = largest_difference(made, few)
    times = read_times(made.path)
    (measured,) = times.measured
    idle = (measured["read_wait_seconds"] + measured["write_wait_seconds"]) / measured["seconds"]
    rate = made.layer.manifest_entry(SHARD).count / measured["seconds"]
    queue = measured["ready"] / measured["takes"]
    return Seen(
        error < 5e-3,
        f"largest difference {error:.0e}; {rate:.1f} images/s, idle {idle:.0%}, {queue:.1f} records decoded ahead",
    )


def smaller_batches(place: Place) -> Seen:
    """make_cams with more images together than the memory holds."""
    trained = classifier(place, num_images=24 if place.large else 5)
    with scarce_memory(place):
        made = make_maps(place, trained, name="scarce", batch_images=16 if place.large else 4)
    wanted = make_maps(place, trained, name="single", batch_images=1)
    error = largest_difference(made, wanted)
    (measured,) = read_times(made.path).measured
    fewer = {name: int(value) for name, value in measured.items() if name.startswith("fewer.")}
    return Seen(bool(fewer) and error < 5e-3, f"{fewer or 'everything fitted'}; largest difference {error:.0e}")


def bf16(place: Place) -> Seen:
    """One epoch with precision = bf16, against one with fp32; one rank, through NCCL on a GPU."""
    return _trained_like(place, "bf16", {"precision": "bf16"}, tolerance=0.05)


def zero_3(place: Place) -> Seen:
    """One epoch with zero_stage = 3, against one without ZeRO."""
    return _trained_like(place, "zero_3", {"zero_stage": 3}, tolerance=1e-3)


def smaller_micro_batches(place: Place) -> Seen:
    """A training whose micro-batches do not fit at first: it starts again with smaller ones."""
    return _trained_like(place, "micro", {"fits": 1}, tolerance=1e-3)


CHECKS: Mapping[str, Callable[[Place], Seen]] = {
    "masks drawn from a counter": masks,
    "FickleNet's maps": stochastic_maps,
    "dense CRF": crf,
    "random walk": walk,
    "make_cams: speed, idle share": maps,
    "make_cams: too little memory": smaller_batches,
    "training: bf16": bf16,
    "training: ZeRO 3": zero_3,
    "training: too little memory": smaller_micro_batches,
}


def classifier(place: Place, *, num_images: int) -> Instance:
    """An untrained classifier over so many drawn JPEGs."""
    size = (375, 500) if place.large else (61, 83)
    random = np.random.default_rng(5)
    pictures = []
    for number in range(num_images):
        coarse = random.integers(0, 255, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize(size[::-1]).save(file, "JPEG", quality=90)
        pictures.append(Sample(key=f"k{number:04d}", encoded=file.getvalue(), size=size, classes=(1, 4), mask=None))
    folder = place.folder / f"classifier-{num_images}"
    if place.large:
        stage = TrainClassifier(encoder="resnet50", pretrained="none")
    else:
        stage = TrainClassifier(encoder="test_efficientnet", pretrained="none", dilated=False)
    instance = stage_instance(stage, folder, samples=samples_of(folder, {SHARD: pictures}))
    instance.path.mkdir(parents=True)
    torch.manual_seed(5)
    save_file(stage.model(instance, pretrained=False).state_dict(), weights_path(instance))
    return instance


def make_maps(place: Place, trained: Instance, *, name: str, batch_images: int, limit: int | None = None) -> Instance:
    """The layer of maps that a worker there makes; of a classifier's first images only, if `limit` is given."""
    samples = trained.samples
    if limit is not None:
        first = [one for _, one in zip(range(limit), read_shard(samples.layer, SHARD), strict=False)]
        samples = samples_of(place.folder / f"first-{name}", {SHARD: first})
    stage = MakeCams(batch_images=batch_images, scales=(1.0, 0.5), splits=("val",))
    made = stage_instance(stage, place.folder / name, samples=samples, classifier=trained)
    made.path.mkdir(parents=True)
    with threads_beside(place):
        executor = ShardExecutor(threads=1, gpus=place.gpus, cpus=place.cpus)
        executor.make_shard(made, SHARD)
    return made


@contextmanager
def threads_beside(place: Place) -> Iterator[None]:
    """Threads that decode and write as beside a GPU, on the CPU too."""
    chosen = shard_work.choose_device
    if not place.gpus:
        shard_work.choose_device = lambda *, gpus, cpus: devices.decode_beside(1)
    try:
        yield
    finally:
        shard_work.choose_device = chosen
        devices.decode_beside(0)


@contextmanager
def scarce_memory(place: Place) -> Iterator[None]:
    """Memory for a few images: of the GPU, torch may use little; on the CPU a network refuses more than two views."""
    if place.gpus:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 1e9) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    from wsss.models.classifier import Classifier

    whole = Classifier.features

    def features(network: Classifier, image_B3HW: torch.Tensor) -> torch.Tensor:
        if len(image_B3HW) > 2:
            raise torch.OutOfMemoryError("simulated")
        return whole(network, image_B3HW)

    Classifier.features = features  # type: ignore[method-assign]
    try:
        yield
    finally:
        Classifier.features = whole  # type: ignore[method-assign]


def largest_difference(one: Instance, other: Instance) -> float:
    """Between the maps of the images that both have."""
    read = [{record.key: record for record in read_shard(each.layer, SHARD)} for each in (one, other)]
    common = read[0].keys() & read[1].keys()
    assert common
    errors = []
    for key in common:
        first, second = read[0][key], read[1][key]
        assert isinstance(first, CamRecord) and isinstance(second, CamRecord)
        errors.append(float(np.abs(first.maps.astype(np.float32) - second.maps.astype(np.float32)).max()))
    return max(errors)


def _trained_like(place: Place, name: str, settings: Mapping[str, object], *, tolerance: float) -> Seen:
    """Weights after a short training with these settings, against those without, on the same device."""
    plain = {"batch_size": 4, "num_epochs": 1, "learning_rate": 0.05, "frozen": True}
    weights, took = [], 0.0
    for folder, given in ((place.folder / f"{name}-plain", {}), (place.folder / name, settings)):
        folder.mkdir(parents=True)
        stage = TinyFit(**{**plain, **given})  # type: ignore[arg-type]
        runtime = LocalRuntime(RuntimeSettings(runs=folder, rank_gpus=place.gpus))
        begun = time.perf_counter()
        runtime.fit(instance_of(stage, folder), stage, lambda done, total, state: None)
        took = time.perf_counter() - begun
        weights.append(load_file(folder / WEIGHTS))
    error = max(float((weights[1][one] - value).abs().max()) for one, value in weights[0].items())
    return Seen(error < tolerance, f"weights differ by at most {error:.0e}; {took:.0f} s with the start")
