"""Training and prediction of a DeepLabv3+: our engine against a bare loop; two ranks and two actors against one.

    .venv/bin/python -m tests.benchmarks.segmenter
    .venv/bin/python -m tests.benchmarks.segmenter --gpu     # images per second on this machine's GPU

Training: MobileNetV2 at output stride 16, batches of 8 crops of 160 x 160 pixels in memory, 21 classes, one
thread; the rival is a plain PyTorch loop, from the same weights. Losses: one rank and two, 20 steps.
Prediction: drawn images of 375 x 500, scales 0.5 and 1 with their mirror images, Ray actors as in `wsss run`.

On a GPU: ResNet-50 at output strides 8 and 16, crops of 352 x 352 pixels, batches of 16, 201 classes, autocast to bf16,
weights and images channels-last, with and without torch.compile; prediction of 375 x 500 pixels in six views.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from cluster.local import LocalRuntime, free_port
from cluster.ray_runtime import RayRuntime
from cluster.training.engine import run_rank
from cluster.training.rank_process import RankPlace
from shards.images import encode_png
from shards.records import Sample
from tests.benchmarks.pseudo_labels import NICENESS, SIZE, layer_bytes, picture, rate
from tests.cluster.in_memory import InMemory
from tests.wsss.layers import instance_of, samples_of
from wsss.contract.fit import Draw, Fit, weights_path
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import settings
from wsss.contract.stage import Instance, Outcome
from wsss.models.encoder import EncoderSpec
from wsss.models.norm import freeze_batch_norm
from wsss.models.segmenter import build_segmenter
from wsss.stages.predict import Predict
from wsss.stages.train_segmenter import TrainSegmenter
from wsss.tasks.segmentation import SegmentationTask

NUM_CLASSES, SIDE, BATCH, STEPS, EPOCHS, SEED = 21, 160, 8, 4, 3, 0
RATIO_BAR, LOSSES_BAR, ACTORS_BAR = 0.95, 1e-4, 1.8
RATES = (12, 24, 36)
NUM_SHARDS, IMAGES_PER_SHARD = 20, 2


def drawn() -> InMemory:
    """Crops and label maps for one epoch."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(STEPS * BATCH, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (STEPS * BATCH, SIDE, SIDE), generator=generator)
    return InMemory(image=images, label=labels)


@settings
class Training(Fit):
    """The training of both sides; without dropout, whose draws depend on the rank."""

    kind: ClassVar[str] = "training"

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        spec = EncoderSpec(name="mobilenetv2_100", output_stride=16, dilated=False, pretrained="none")
        network = build_segmenter(spec, atrous_rates=RATES, num_classes=NUM_CLASSES, decoder_channels=64, dropout=0.0)
        freeze_batch_norm(network.encoder)
        return network

    def task(self, instance: Instance) -> SegmentationTask:
        network: Any = self.model(instance, pretrained=True)
        return SegmentationTask(network, synchronise_norms=True)

    def training_set(self, instance: Instance) -> InMemory:
        return drawn()


def training(folder: Path, **changes: Any) -> Instance:
    stage = Training(**{"batch_size": BATCH, "num_epochs": EPOCHS, "learning_rate": 1e-3, **changes})
    return Instance(name="training", stage=stage, seed=SEED, inputs={}, fingerprint="0" * 64, path=folder)


def ours(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds and mean loss of every epoch."""
    folder.mkdir()
    run_rank(training(folder), RankPlace(0, 1, 0, threads=1, gpus=0, address=f"127.0.0.1:{free_port()}"))
    history = json.loads((folder / "outcome.json").read_text())["tables"]["history"]
    return [STEPS * BATCH / row["images_per_second"] for row in history], [row["loss"] for row in history]


def rival() -> tuple[list[float], list[float]]:
    """A plain PyTorch training loop."""
    instance = training(Path("unused"))
    torch.manual_seed(SEED)
    task = instance.stage.task(instance).train()  # type: ignore[attr-defined]
    new = {id(parameter) for parameter in task.new_parameters()}
    groups = [
        {
            "params": [
                p for p in task.parameters() if p.requires_grad and (id(p) in new, p.ndim > 1) == (is_new, decays)
            ],
            "lr": 1e-2 if is_new else 1e-3,
            "weight_decay": instance.stage.weight_decay if decays else 0.0,
        }
        for is_new in (False, True)
        for decays in (False, True)
    ]
    optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=1e-3, momentum=0.9)
    total = STEPS * EPOCHS
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / total) ** 0.9)
    examples, times, means = drawn(), [], []
    for epoch in range(EPOCHS):
        items = [examples.example(Draw(int(index), epoch)) for index in examples.order(epoch)]
        started, losses = time.monotonic(), []
        for batch in DataLoader(items, batch_size=BATCH):  # type: ignore[arg-type]
            logits = task.network(batch["image"].to(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits, batch["label"], ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        times.append(time.monotonic() - started)
        means.append(statistics.fmean(losses))
    return times, means


def losses_of(folder: Path, *, world_size: int) -> list[float]:
    """The mean loss of every epoch of four steps, 20 steps in all."""
    instance = training(folder, world_size=world_size, num_epochs=5)
    instance.path.mkdir()
    outcome: Outcome = LocalRuntime(RuntimeSettings(runs=folder)).fit(instance, instance.stage, lambda *_: None)  # type: ignore[arg-type]
    return [float(row["loss"]) for row in outcome.tables["history"]]  # type: ignore[arg-type]


def prediction(path: Path) -> Instance:
    """A layer of images and a network of random weights."""
    path.mkdir()
    shards: dict[str, list[Any]] = {}
    for number in range(NUM_SHARDS * IMAGES_PER_SHARD):
        image = Sample(key=f"k{number}", encoded=encode_png(picture(number)), size=SIZE, classes=(), position=number)
        shards.setdefault(f"val-{number // IMAGES_PER_SHARD:06d}", []).append(image)
    samples = samples_of(path, shards)
    stage = TrainSegmenter(encoder="mobilenetv2_100", pretrained="none", dilated=False, decoder_channels=64)
    trained = instance_of(stage, path, samples=samples)
    trained.path.mkdir()
    torch.manual_seed(0)
    save_file(stage.model(trained, pretrained=True).state_dict(), weights_path(trained))
    return instance_of(Predict(scales=(0.5, 1.0)), path, samples=samples, segmenter=trained)


def predicted(path: Path, *, num_actors: int) -> tuple[float, bytes]:
    """Images per second in steady state, and the layer's bytes."""
    instance = prediction(path)
    runtime = RayRuntime(RuntimeSettings(runs=path, num_actors=num_actors), address=None)
    try:
        return rate(instance, runtime), b"".join(layer_bytes(instance))
    finally:
        runtime.close()


def on_cpu(repetitions: int) -> dict[str, Any]:
    os.environ.setdefault(NICENESS, "0")  # actors of lower priority would be slowed down by other processes
    torch.set_num_threads(1)
    pairs: list[tuple[float, float]] = []
    rates: dict[int, list[float]] = {1: [], 2: []}
    error, made = 0.0, set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for repetition in range(repetitions):
            mine, my_losses = ours(folder / f"ours-{repetition}")
            theirs, their_losses = rival()
            pairs.extend(zip(mine[1:], theirs[1:], strict=True))
            error = max(error, *(abs(a - b) / b for a, b in zip(my_losses, their_losses, strict=True)))
        torch.distributed.destroy_process_group()
        one_rank, two_ranks = (losses_of(folder / f"ranks-{n}", world_size=n) for n in (1, 2))
        for repetition in range(repetitions):
            for num_actors, found in rates.items():
                images_per_second, layer = predicted(folder / f"{repetition}-{num_actors}", num_actors=num_actors)
                found.append(images_per_second)
                made.add(layer)
    ratio = statistics.median(theirs for _, theirs in pairs) / statistics.median(mine for mine, _ in pairs)
    ranks = max(abs(a - b) / a for a, b in zip(one_rank, two_ranks, strict=True))
    one, two = (statistics.median(found) for found in rates.values())
    return {
        "name": "segmenter",
        "ratio": ratio,
        "agreement": error < LOSSES_BAR and len(made) == 1,
        "error": error,
        "checks": {
            "bare loop's time / ours": {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR},
            "losses of two ranks / one's - 1": {"value": ranks, "bar": LOSSES_BAR, "ok": ranks <= LOSSES_BAR},
            "two actors' images per second / one's": {
                "value": two / one,
                "bar": ACTORS_BAR,
                "ok": two / one >= ACTORS_BAR,
            },
        },
        "predicted_images_per_second": {"1 actor": one, "2 actors": two},
    }


def trained_on_gpu(*, output_stride: int, compiled: bool, batch_size: int = 16, steps: int = 30) -> float:
    """Images per second of forward, backward and SGD in bf16."""
    spec = EncoderSpec(name="resnet50", output_stride=output_stride, dilated=True, pretrained="none")
    network = (
        build_segmenter(spec, atrous_rates=RATES, num_classes=201).cuda().to(memory_format=torch.channels_last).train()
    )
    freeze_batch_norm(network.encoder)
    task: Any = SegmentationTask(network, synchronise_norms=False)
    call = torch.compile(task.network) if compiled else task.network
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    image = torch.randn(batch_size, 3, 352, 352, device="cuda").to(memory_format=torch.channels_last)
    label = torch.randint(0, 201, (batch_size, 352, 352), device="cuda")
    for step in range(10 + steps):
        if step == 10:
            torch.cuda.synchronize()
            started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            logits = call(image)
        output = task.from_logits(logits.float(), {"label": label})
        optimizer.zero_grad()
        output.total().backward()
        optimizer.step()
    torch.cuda.synchronize()
    return batch_size * steps / (time.perf_counter() - started)


@torch.inference_mode()
def predicted_on_gpu(*, output_stride: int, images: int = 20) -> float:
    """Images per second of a whole prediction in six views, decoding included."""
    spec = EncoderSpec(name="resnet50", output_stride=output_stride, dilated=True, pretrained="none")
    network = (
        build_segmenter(spec, atrous_rates=RATES, num_classes=201).cuda().to(memory_format=torch.channels_last).eval()
    )
    stage, trained = Predict(scales=(0.5, 1.0, 2.0)), TrainSegmenter(encoder="resnet50", pretrained="none")
    sample = Sample(key="a", encoded=encode_png(picture(0)), size=SIZE, classes=())
    for number in range(3 + images):
        if number == 3:
            torch.cuda.synchronize()
            started = time.perf_counter()
        stage._prediction(sample, network, trained)
    torch.cuda.synchronize()
    return images / (time.perf_counter() - started)


def on_gpu() -> dict[str, Any]:
    rates: dict[str, float] = {}
    for stride in (8, 16):
        for compiled in (False, True):
            how = "compiled" if compiled else "as it is"
            rates[f"training, stride {stride}, {how}"] = trained_on_gpu(output_stride=stride, compiled=compiled)
        rates[f"prediction, six views, stride {stride}"] = predicted_on_gpu(output_stride=stride)
    return {"name": "segmenter on a GPU", "device": torch.cuda.get_device_name(), "images_per_second": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2, help="alternating runs of both sides")
    parser.add_argument("--gpu", action="store_true", help="images per second on this machine's GPU, nothing else")
    options = parser.parse_args()
    print(json.dumps(on_gpu() if options.gpu else on_cpu(options.repetitions)))


if __name__ == "__main__":
    main()
