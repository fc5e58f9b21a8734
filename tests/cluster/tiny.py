"""Tiny stages for tests of runtimes. They are in a module because other processes import them."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from shards.layer import ShardError
from shards.records import BadSampleError, Missing, Record, SeedRecord
from shards.work_notes import note
from tests.cluster.watched_restore import change_checkpoints
from wsss.contract.counts import Counts
from wsss.contract.fit import Draw, Fit, Validation
from wsss.contract.settings import settings
from wsss.contract.stage import Instance, Map, Outcome, Reduce, ShardCounter, ShardWorker, Stage
from wsss.losses.masked_mean import MaskedSum
from wsss.models.norm import freeze_batch_norm
from wsss.tasks.task import Batch, Task, TaskOutput

SHARDS = [f"train-{number:06d}" for number in range(5)]


def instance_of(stage: Stage, path: Path) -> Instance:
    return Instance(name="tiny", stage=stage, seed=3, inputs={}, fingerprint="0" * 64, path=path)


def die_once(marker: Path) -> None:
    """Kill this process with SIGKILL, the first time only."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def hang(marker: Path, *, once: bool = False) -> None:
    """Create `marker` and sleep for longer than any test takes; with `once`, only if `marker` does not exist."""
    if once and marker.exists():
        return
    marker.touch()
    time.sleep(3600)


def crash_once(marker: Path) -> None:
    """Cause a segmentation fault, the first time only."""
    if not marker.exists():
        marker.touch()
        ctypes.string_at(0)


class TinyTask(Task):
    """Squared error over the pixels that are not masked out; every example masks a different share of them."""

    def __init__(self, network: nn.Module, stage: TinyFit, path: Path) -> None:
        super().__init__()
        self.network = network
        self.synchronise_norms = stage.synchronise
        self._stage, self._path = stage, path
        if stage.tally:
            self.register_buffer("counted", torch.zeros((), dtype=torch.int64))
            self.register_buffer("epochs", torch.full((2,), torch.nan, dtype=torch.float64))
            self.register_buffer("odd", torch.zeros(2, dtype=torch.bool))

    def prepare(self, batch: Batch) -> Batch:
        """Write the running mean at the start of the step to a file."""
        if self._stage.note_buffers:
            mean = cast(nn.Sequential, self.network)[1].running_mean.tolist()  # type: ignore[union-attr, operator]
            with (self._path / f"buffers-{dist.get_rank()}.txt").open("a") as file:
                file.write(f"{mean}\n")
        return batch

    def begin_step(self, step: int, *, num_steps: int) -> None:
        """Write the steps that rank 0 begins to a file."""
        self._step = step
        if self._stage.fits and dist.get_rank() == 0:
            with (self._path / "steps.txt").open("a") as file:
                file.write(f"{step}\n")

    def forward(self, batch: Batch) -> TaskOutput:
        stage = self._stage
        is_short = self._step >= stage.short_from and stage.short_rank in (-1, dist.get_rank())
        if stage.fits and is_short and len(batch["image"]) > stage.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        error = (self.network(batch["image"]) - batch["target"]).square() * batch["valid"]
        if f"k{self._stage.spoil}" in batch["key"]:  # adds 0 with a gradient that is not finite
            error = error + (0 * next(self.network.parameters())).sqrt().sum()
        tally = torch.tensor(len(batch["image"])) if stage.tally else None
        return TaskOutput(
            {"square": MaskedSum(error.sum(), self.counts(batch)["square"])}, {"square": 0.5}, tally=tally
        )

    def end_step(self, step: int, *, tally: torch.Tensor | None) -> None:
        if tally is not None:
            self.counted += tally

    def end_epoch(self) -> None:
        """Write what every rank counted until then to a file."""
        if self._stage.tally:
            number = int(self.epochs.isfinite().sum())
            self.epochs[number], self.odd[number] = float(self.counted), bool(self.counted % 2)
            with (self._path / f"counted-{dist.get_rank()}.txt").open("a") as file:
                file.write(f"{self.epochs.tolist()} {self.odd.tolist()}\n")

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"square": batch["valid"].sum().long()}

    def new_parameters(self) -> Iterator[nn.Parameter]:
        return iter(())


class TinySet:
    """Nine examples: batches of 4, 4 and 1, so that the second of two ranks has no example in the last."""

    def __init__(self, stage: TinyFit, marker: Path) -> None:
        self._stage, self._marker = stage, marker

    def __len__(self) -> int:
        return self._stage.num_examples

    def order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(epoch).permutation(len(self))

    def num_draws(self, epoch: int) -> int:
        return len(self.order(epoch))

    def name_of(self, index: int) -> str:
        return f"train-000000: k{index}"

    def example(self, draw: Draw) -> dict[str, Any]:
        index, epoch = draw.index, draw.epoch
        time.sleep(self._stage.slow)
        if index in self._stage.torn:
            raise (BadSampleError if index % 2 else ShardError)(f"it is torn at {index % 2}")
        if index == self._stage.break_at:
            raise KeyError("no such class")
        if epoch == 1 and index == self.order(epoch)[5]:
            if self._stage.die:
                die_once(self._marker)
            if self._stage.crash:
                crash_once(self._marker)
            if self._stage.hang:
                hang(self._marker)
        generator = torch.Generator().manual_seed(100 * epoch + index)
        image = torch.randn(3, 5, 7, generator=generator)
        valid = (torch.rand(1, 5, 7, generator=generator) < (index % 9 + 1) / 10).float()
        if index == self._stage.poison:
            image = image * float("nan")
        return {"key": f"k{index}", "image": image, "target": image.sum(0, keepdim=True), "valid": valid}


@settings
class TinyFit(Fit):
    """A convolution, a batch normalisation and a convolution."""

    kind: ClassVar[str] = "tiny_fit"
    die: bool = False
    """A rank dies in the second batch of the second epoch, after four steps."""
    poison: int = -1
    """This example's loss is not finite."""
    spoil: int = -1
    """This example's loss is finite, but its gradient is not."""
    torn: tuple[int, ...] = ()
    """These examples cannot be read."""
    synchronise: bool = True
    """Normalise over the batches of all ranks."""
    tally: bool = False
    """Count the examples, in buffers."""
    note_buffers: bool = False
    """Every rank writes its buffers at the start of a step to a file."""
    wide: bool = False
    """Add a layer so large that ZeRO 3 partitions it (over 100,000 parameters)."""
    frozen: bool = False
    """Freeze the normalisation, because its statistics depend on the size of micro-batches."""
    best_at: int = 6
    """The validation after this step is the best one."""
    refuse: bool = False
    """Creating the task raises ValueError."""
    hang: bool = False
    """A rank hangs at the second batch of the second epoch."""
    break_at: int = -1
    """Reading this example raises an error other than an unreadable image."""
    crash: bool = False
    """Like `die`, by a segmentation fault."""
    fits: int = 0
    """Examples that a rank's GPU has memory for, in a forward pass; more raise torch's error. 0: any number."""
    short_from: int = 0
    """Its memory is short from this step on."""
    short_rank: int = -1
    """The memory of this rank is short; -1: that of all."""
    die_validating: int = 0
    """The first rank dies in the validation after this step, once; 0 for never."""
    slow: float = 0.0
    """Seconds that reading an example takes."""
    num_examples: int = 9
    """Size of the training set."""
    die_after: int = 0
    """The first rank dies after the checkpoint of this step; 0 for never."""
    die_while_saving: int = 0
    """The first rank dies in the middle of writing the checkpoint of this step, once; 0 for never."""
    watched: bool = False
    """The state after a checkpoint was loaded is written to files: see `tests.cluster.watched_restore`."""
    forget: bool = False
    """The optimizer's moments are not loaded with a checkpoint."""

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
        if self.wide:
            layers[2] = nn.Sequential(nn.Conv2d(4, 12_000, 3, padding=1), nn.ReLU(), nn.Conv2d(12_000, 4, 1))
        if self.frozen:
            freeze_batch_norm(layers)
        return layers

    def task(self, instance: Instance) -> Task:
        with (instance.path / "starts.txt").open("a") as file:
            file.write("start\n")
        if self.refuse:
            raise ValueError("these settings cannot be trained with")
        change_checkpoints(self, instance)
        return TinyTask(self.model(instance, pretrained=True), self, instance.path)

    def training_set(self, instance: Instance) -> TinySet:
        return TinySet(self, instance.path / "died")

    def validate(self, network: nn.Module, instance: Instance) -> Validation:
        """The best is the second of three: the step nearest to `best_at`."""
        with (instance.path / "validations.txt").open("a") as file:
            file.write("validation\n")
        assert not network.training
        step = json.loads((instance.path / "checkpoints" / "latest.json").read_bytes())["step"]
        if self.die_validating == step and not (instance.path / "died").exists():
            (instance.path / "died").touch()
            os._exit(7)
        for _ in range(2):  # with partitioned weights, a forward pass on one rank would wait for the others
            network(torch.zeros(1, 3, 5, 7))
        seen = float(cast(nn.Sequential, network)[1].num_batches_tracked)  # type: ignore[arg-type]
        return Validation(-abs(seen - self.best_at), Outcome(metrics={"val.seen": seen}))

    def finish(self, network: nn.Module, instance: Instance) -> Outcome:
        return Outcome(metrics={"tiny.parameters": float(sum(p.numel() for p in network.parameters()))})


@settings
class TinyMap(Map):
    """Two records per shard; between them it may die once, crash once, hang, or raise."""

    kind: ClassVar[str] = "tiny_map"
    record_kind: ClassVar[str] = "seed"
    uses_torch: ClassVar[bool] = False
    die_once_in: str = ""
    crash_once_in: str = ""
    hang_once_in: str = ""
    hang_in: str = ""
    wait_in: str = ""
    """In this shard, create a file `waits` and continue once a file `go` exists."""
    raise_in: str = ""
    big: int = 0
    """Size in bytes of a third record in every shard; 0 for none."""
    open_files: bool = False
    """In the second shard, open as many files as the process may have."""

    def shards(self, instance: Instance) -> list[str]:
        return SHARDS

    def worker(self, instance: Instance) -> ShardWorker:
        def work(shard: str) -> Iterator[Record | Missing]:
            number = SHARDS.index(shard)
            yield SeedRecord(key=f"{shard}-a", label=np.full((3, 5), number, np.uint8))
            note(sample=f"{shard}-b")
            if shard == self.die_once_in:
                die_once(instance.path / "died")
            if shard == self.crash_once_in:
                crash_once(instance.path / "died")
            held = _all_files() if self.open_files and number == 1 else []
            if shard in (self.hang_in, self.hang_once_in):
                hang(instance.path / "hangs", once=shard == self.hang_once_in)
            if shard == self.wait_in:
                (instance.path / "waits").touch()
                while not (instance.path / "go").exists():
                    time.sleep(0.05)
            if shard == self.raise_in:
                raise ValueError("this shard holds nonsense")
            yield SeedRecord(key=f"{shard}-b", label=np.full((2, 7), number + 1, np.uint8))
            if self.big:
                noise = np.random.default_rng(number).integers(0, 256, (1, self.big), np.uint8)
                yield SeedRecord(key=f"{shard}-c", label=noise)
            if held:
                (instance.path / "one more").touch()

        return work


@settings
class TorchMap(TinyMap):
    """The same, with a worker that could use a GPU."""

    kind: ClassVar[str] = "torch_map"
    uses_torch: ClassVar[bool] = True


def _all_files() -> list[IO[bytes]]:
    """Open files until the limit of the process is reached."""
    held: list[IO[bytes]] = []
    with suppress(OSError):
        while True:
            held.append(os.fdopen(os.open(os.devnull, os.O_RDONLY), "rb"))
    return held


@settings
class TinyReduce(Reduce):
    """Counts that are different for every shard."""

    kind: ClassVar[str] = "tiny_reduce"
    hang_in: str = ""

    def shards(self, instance: Instance) -> list[str]:
        return SHARDS

    def counter(self, instance: Instance) -> ShardCounter:
        def count(shard: str) -> Counts:
            if shard == self.hang_in:
                hang(instance.path / "hangs")
            return Counts(sums={"counts": np.array([1, 10 ** SHARDS.index(shard)], np.int64)})

        return count

    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        return Outcome()
