"""One training step: our engine (DeepSpeed, one rank) against a bare PyTorch loop, one thread.

    .venv/bin/python -m tests.benchmarks.engine

Both train the same classifier (MobileNetV2 at output stride 16, frozen norms, SGD in two groups, poly schedule) on the
same batches of 16 tensors of 160 x 160 pixels in memory, through torch's loader, from the same weights, and
read the loss at every step. Ours is timed by the figure that it reports, images per second of an epoch; checkpoints,
which the bare loop does not write, are written between epochs and not timed. The first epoch of each is a warm-up.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from cluster.local import free_port
from cluster.training.engine import run_rank
from cluster.training.rank_process import RankPlace
from tests.cluster.in_memory import InMemory
from wsss.contract.fit import Draw, Fit, weights_path
from wsss.contract.settings import settings
from wsss.contract.stage import Instance
from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.norm import freeze_batch_norm
from wsss.tasks.classification import ClassificationTask, Objective

NUM_CLASSES, SIDE, BATCH, STEPS, EPOCHS, REPETITIONS, SEED = 20, 160, 16, 4, 3, 3, 0
LARGEST_ERROR, LARGEST_WEIGHTS_ERROR = 1e-5, 1e-4
RATIO_BAR = 0.95


def drawn() -> InMemory:
    """Images and labels for one epoch."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(STEPS * BATCH, 3, SIDE, SIDE, generator=generator)
    targets = (torch.rand(STEPS * BATCH, NUM_CLASSES, generator=generator) < 0.1).float()
    return InMemory(image=images, target=targets, known=torch.ones_like(targets))


@settings
class Training(Fit):
    """The training of both sides."""

    kind: ClassVar[str] = "training"

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        spec = EncoderSpec(name="mobilenetv2_100", output_stride=16, dilated=False, pretrained="none")
        network = Classifier(build_encoder(spec), num_classes=NUM_CLASSES, head="linear")
        freeze_batch_norm(network.encoder)
        return network

    def task(self, instance: Instance) -> ClassificationTask:
        network: Any = self.model(instance, pretrained=True)
        return ClassificationTask(network, objective=Objective(), synchronise_norms=False)

    def training_set(self, instance: Instance) -> InMemory:
        return drawn()


STAGE = Training(batch_size=BATCH, num_epochs=EPOCHS, learning_rate=1e-3, weight_decay=1e-4)


def ours(folder: Path) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Seconds and mean loss of every epoch, and the weights."""
    instance = Instance(name="training", stage=STAGE, seed=SEED, inputs={}, fingerprint="0" * 64, path=folder)
    run_rank(instance, RankPlace(0, 1, 0, threads=1, gpus=0, address=f"127.0.0.1:{free_port()}"))
    history = json.loads((folder / "outcome.json").read_text())["tables"]["history"]
    times = [STEPS * BATCH / row["images_per_second"] for row in history]
    return times, [row["loss"] for row in history], load_file(weights_path(instance))


def rival() -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """A plain PyTorch training loop."""
    instance = Instance(name="rival", stage=STAGE, seed=SEED, inputs={}, fingerprint="0" * 64, path=Path("unused"))
    torch.manual_seed(SEED)
    task = STAGE.task(instance).train()
    head = list(task.network.head.parameters())
    groups = [
        {"params": [p for p in task.network.encoder.parameters() if p.requires_grad and p.ndim > 1], "lr": 1e-3},
        {
            "params": [p for p in task.network.encoder.parameters() if p.requires_grad and p.ndim == 1],
            "weight_decay": 0.0,
        },
        {"params": head, "lr": 1e-2},
    ]
    optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=1e-3, momentum=0.9, weight_decay=1e-4)
    total = STEPS * EPOCHS
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / total) ** 0.9)
    examples, times, means = drawn(), [], []
    for epoch in range(EPOCHS):
        items = [examples.example(Draw(int(index), epoch)) for index in examples.order(epoch)]
        started, losses = time.monotonic(), []
        for batch in DataLoader(items, batch_size=BATCH):  # type: ignore[arg-type]
            logits = task.network(batch["image"].to(memory_format=torch.channels_last))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, batch["target"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        times.append(time.monotonic() - started)
        means.append(statistics.fmean(losses))
    return times, means, {name: value.detach() for name, value in task.network.state_dict().items()}


def main() -> None:
    torch.set_num_threads(1)
    pairs: list[tuple[float, float]] = []
    error = weights_error = 0.0
    for _ in range(REPETITIONS):
        with tempfile.TemporaryDirectory() as folder:
            mine, my_losses, my_weights = ours(Path(folder))
        theirs, their_losses, their_weights = rival()
        pairs.extend(zip(mine[1:], theirs[1:], strict=True))
        error = max(error, *(abs(a - b) for a, b in zip(my_losses, their_losses, strict=True)))
        weights_error = max(weights_error, *(float((my_weights[n] - w).abs().max()) for n, w in their_weights.items()))
    ratio = statistics.median(theirs for _, theirs in pairs) / statistics.median(mine for mine, _ in pairs)
    report = {
        "name": "engine: one training step of one rank",
        "ratio": ratio,
        "agreement": error < LARGEST_ERROR and weights_error < LARGEST_WEIGHTS_ERROR,
        "error": error,
        "weights_error": weights_error,
        "checks": {"bare loop's time / ours": {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR}},
        "ours_seconds_per_step": statistics.median(mine for mine, _ in pairs) / STEPS,
    }
    torch.distributed.destroy_process_group()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
