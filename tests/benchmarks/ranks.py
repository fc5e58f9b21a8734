"""Two ranks on two cores against one rank on one core, with the same batch per rank.

    .venv/bin/python -m tests.benchmarks.ranks

Both train a MobileNetV2 classifier on images of 256 x 256 pixels in memory, with one thread per rank, as `LocalRuntime`
runs them; timed by the figure that a training reports, images per second of an epoch. The first epoch of each is a
warm-up. The ratio is the images per second of two ranks ÷ those of one. Agreement: two ranks have the losses of one
rank with the same batch in all. Both cores must be free.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from cluster.local import LocalRuntime
from tests.cluster.in_memory import InMemory
from wsss.contract.fit import Fit
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import settings
from wsss.contract.stage import Instance
from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.norm import freeze_batch_norm
from wsss.tasks.classification import ClassificationTask, Objective

NUM_CLASSES, SIDE, BATCH_OF_RANK, STEPS, EPOCHS, REPETITIONS = 20, 256, 8, 4, 4, 3
LARGEST_ERROR, RATIO_BAR = 1e-5, 1.7


@settings
class Training(Fit):
    """The training of both sides: the same number of steps, whatever the batch."""

    kind: ClassVar[str] = "training"

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        spec = EncoderSpec(name="mobilenetv2_100", output_stride=32, dilated=False, pretrained="none")
        network = Classifier(build_encoder(spec), num_classes=NUM_CLASSES, head="linear")
        freeze_batch_norm(network.encoder)
        return network

    def task(self, instance: Instance) -> ClassificationTask:
        network: Any = self.model(instance, pretrained=True)
        return ClassificationTask(network, objective=Objective(), synchronise_norms=False)

    def training_set(self, instance: Instance) -> InMemory:
        generator = torch.Generator().manual_seed(1)
        number = STEPS * self.batch_size
        targets = (torch.rand(number, NUM_CLASSES, generator=generator) < 0.1).float()
        images = torch.randn(number, 3, SIDE, SIDE, generator=generator)
        return InMemory(image=images, target=targets, known=torch.ones_like(targets))


def trained(*, ranks: int, batch: int) -> tuple[list[float], list[float]]:
    """Images per second of every epoch but the first, and the loss of every epoch."""
    from tests.benchmarks.ranks import Training as Importable  # this file runs as __main__, which ranks cannot import

    stage = Importable(world_size=ranks, batch_size=batch, num_epochs=EPOCHS, learning_rate=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        instance = Instance(name="training", stage=stage, seed=0, inputs={}, fingerprint="0" * 64, path=path)
        history = LocalRuntime(RuntimeSettings(runs=path)).fit(instance, stage, lambda *_: None).tables["history"]
    rates = [float(row["images_per_second"]) for row in history]  # type: ignore[arg-type]
    return rates[1:], [float(row["loss"]) for row in history]  # type: ignore[arg-type]


def main() -> None:
    one: list[float] = []
    two: list[float] = []
    losses: list[float] = []
    for _ in range(REPETITIONS):
        one += trained(ranks=1, batch=BATCH_OF_RANK)[0]
        rates, losses = trained(ranks=2, batch=2 * BATCH_OF_RANK)
        two += rates
    _, expected = trained(ranks=1, batch=2 * BATCH_OF_RANK)
    error = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
    ratio = statistics.median(two) / statistics.median(one)
    report = {
        "name": "ranks: images per second of two ranks on two cores, for one rank's",
        "ratio": ratio,
        "agreement": error < LARGEST_ERROR,
        "error": error,
        "checks": {
            "two ranks' images per second / one's": {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR}
        },
        "images_per_second": {"one rank": statistics.median(one), "two ranks": statistics.median(two)},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
