"""What all training stages share: optimisation settings, the interface of training sets, and the weight files."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from wsss.contract.settings import DefaultBy, PerformanceOnly, active_unless, active_with, settings
from wsss.contract.stage import Instance, Outcome, Stage

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "weights.safetensors"
LAST = "last.safetensors"
BEST = "best.safetensors"


@dataclass(frozen=True)
class Draw:
    """One use of one example."""

    index: int
    epoch: int
    occurrence: int = 0
    """How many times the epoch has drawn this example before: every draw is augmented differently."""


class TrainingSet(Protocol):
    """Random access to training examples; an example depends only on the draw and the seed."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray:
        """i64[n]: the indices of one epoch, in order; the index of an oversampled example occurs repeatedly."""
        ...

    def num_draws(self, epoch: int) -> int:
        """Length of `order(epoch)`, without computing the order: it is queried for all epochs before the first."""
        ...

    def example(self, draw: Draw) -> dict[str, Any]:
        """One example: name -> tensor, or `key` -> str.

        Raises `BadSampleError` or `ShardError` if it cannot be read.
        """
        ...

    def name_of(self, index: int) -> str:
        """Name of an example in messages, even if it cannot be read: its shard and its key."""
        ...


@dataclass(frozen=True)
class Validation:
    """The result of a validation."""

    score: float
    """The metric that `keep = "best"` compares; higher is better."""
    outcome: Outcome


_WEIGHT_DECAY = {"sgd": 1e-4, "adam": 0.0, "adamw": 1e-4}
"""Optimizer -> default of `weight_decay`."""


@settings
class Fit(Stage):
    """A stage that trains one task. The global batch size is part of the fingerprint, the number of ranks is not: a
    training may be resumed with another one."""

    needs_every_class: ClassVar[bool] = False
    """Whether the training set must show every class that is learned."""

    seed_shift: Annotated[int, Field(ge=0), active_unless("seed_shift", 0)] = 0
    """Added to the recipe's seed: repeats the same training with other random draws, to measure how much results
    vary."""
    folds: Annotated[int, Field(ge=1, le=64), active_unless("folds", 1)] = 1
    """Cross-fitting with this many folds, if more than 1: shard i of the split train belongs to fold i modulo `folds`,
    plus 1; one network is trained without each fold, and stages that read the networks use, for every shard, the one
    that has not learned it. Two folds take as many steps as one training on all images. The instance NAME becomes
    NAME_fold1, NAME_fold2, …; a later training that starts from its weights needs the same `folds`."""
    fold: Annotated[int, Field(ge=0), active_unless("fold", 0)] = 0
    """The fold that the instance is trained without; set by `folds`, not in a recipe."""
    world_size: Annotated[int, Field(ge=1), PerformanceOnly()] = 1
    """Number of training processes; each is one DeepSpeed rank. A training may be resumed with another number: results
    are the same up to rounding, other random draws inside the network, and norms that are not synchronised."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Examples per optimisation step over all ranks, at least `world_size` times `gradient_accumulation_steps`. If it
    does not divide, some ranks have one example more; every example has the same weight."""
    num_epochs: Annotated[int, Field(ge=1)] = 5
    """Passes over the training set."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """The optimizer."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of the parameters that start from pretrained weights."""
    head_lr_multiplier: Annotated[float, Field(gt=0)] = 10.0
    """Learning rate of randomly initialised parameters (the head), as a multiple of `learning_rate`."""
    bias_lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    """Learning rate of biases, as a multiple of the learning rate of the weights next to them."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; the first beta of Adam and AdamW."""
    weight_decay: Annotated[
        Annotated[float, Field(ge=0)] | None, DefaultBy(lambda stage: _WEIGHT_DECAY[stage.optimizer])
    ] = None
    """Weight decay; not applied to biases and to parameters of normalisation layers. If not given, 0.0001 with sgd and
    adamw, and 0 with adam, whose defaults FickleNet uses (NoPeopleAllowed: 0.00001)."""
    schedule: Literal["poly", "step"] = "poly"
    """Learning-rate schedule: `poly`, a power of the share of steps left; `step`, a factor every `step_epochs`."""
    poly_power: Annotated[float, Field(ge=0), active_with("schedule", "poly")] = 0.9
    """poly: at step i of n the learning rate is its initial value times (1 - i / n) ** poly_power."""
    step_epochs: Annotated[int, Field(ge=1), active_with("schedule", "step")] = 3
    """step: epochs between two reductions of the learning rate (NoPeopleAllowed: 3; FickleNet: 10)."""
    step_factor: Annotated[float, Field(gt=0, le=1), active_with("schedule", "step")] = 0.2
    """step: factor by which each reduction multiplies the learning rate (NoPeopleAllowed: 0.2; FickleNet: 0.5)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly to its initial value."""
    gradient_clipping: Annotated[float, Field(ge=0)] = 0.0
    """Maximum norm of the gradient; 0 does not clip."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Number of micro-batches that each rank processes per optimisation step, one after the other. The loss is that of
    the whole batch; BatchNorm statistics that are not frozen are those of one micro-batch. If a rank's examples do not
    divide, the last micro-batch is smaller."""
    ema_decay: Annotated[float, Field(ge=0, lt=1), active_unless("ema_decay", 0.0)] = 0.0
    """Decay per step of an exponential moving average of the weights, which is validated and saved instead of the
    weights themselves; 0 turns it off."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO stage."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` computes under torch's autocast; weights stay in fp32."""
    checkpoint_every: Annotated[int, Field(ge=0), PerformanceOnly()] = 0
    """Steps between checkpoints; 0 saves one per epoch."""
    validate_every: Annotated[int, Field(ge=0)] = 0
    """Epochs between validations; 0 validates only the final weights, and a segmenter not at all."""
    keep: Literal["last", "best"] = "last"
    """Weights that later stages read: the last ones, or those with the best validation score."""
    max_unreadable: Annotated[float, Field(ge=0, le=1), PerformanceOnly()] = 0.01
    """Largest share of an epoch's examples that may be unreadable before the training stops (at least one example is
    allowed, unless 0). Each one is recorded and replaced by the next readable example."""
    loader_workers: Annotated[int, Field(ge=0), PerformanceOnly()] = 0
    """Processes per rank that read and augment examples; 0 does this in the rank's own process."""

    def check(self, instance: Instance) -> None:
        parts = self.world_size * self.gradient_accumulation_steps
        if self.batch_size < parts:
            factors, cure = f"world_size = {self.world_size}", f"set world_size to at most {self.batch_size}"
            if self.gradient_accumulation_steps > 1:
                factors += f" times gradient_accumulation_steps = {self.gradient_accumulation_steps}"
                cure = f"set one of them so that the product is at most {self.batch_size}"
            raise ValueError(
                f"{instance.name}.batch_size = {self.batch_size} is less than {factors}: ranks would have no examples; "
                f"{cure}, or raise batch_size"
            )
        if self.ema_decay and self.zero_stage == 3:
            raise ValueError(
                f"{instance.name}.ema_decay = {self.ema_decay} averages complete weights, but no rank has them with "
                "zero_stage = 3; set zero_stage = 2, or ema_decay = 0"
            )
        self._check_validation(instance)

    def _check_validation(self, instance: Instance) -> None:
        validates = type(self).validate is not Fit.validate
        if self.validate_every and not validates:
            raise ValueError(f"{instance.name}.validate_every: {self.kind} has no validation; remove this setting")
        if self.validate_every > self.num_epochs:
            raise ValueError(
                f"{instance.name}.validate_every = {self.validate_every} is more than num_epochs = {self.num_epochs}; "
                "set it to at most that"
            )
        if self.keep == "best" and not self.validate_every:
            raise ValueError(f"{instance.name}.keep = 'best' needs validate_every = 1 or more")

    def draws(self) -> bool:
        return True

    def is_intact(self, instance: Instance) -> bool:
        return is_whole(weights_path(instance))

    @abstractmethod
    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        """The network; `pretrained` loads the encoder's initial weights, otherwise they are random."""

    def learned_classes(self, instance: Instance) -> frozenset[int] | None:
        """Ids of the classes that are learned; None means all of the data set."""
        return None

    @abstractmethod
    def task(self, instance: Instance) -> nn.Module:
        """The network with its objective, ready to be trained: a `wsss.tasks.task.Task`."""

    def forward_pass(self, network: Any, image_B3HW: torch.Tensor, instance: Instance) -> Any:
        """The network's output for a batch, called as the task calls it; `wsss plan` counts its operations."""
        return network(image_B3HW)

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convert a batch of examples to what the task reads: operations that run on the training device."""
        return batch

    @abstractmethod
    def training_set(self, instance: Instance) -> TrainingSet:
        """The training set. Raises ValueError if it is empty."""

    def begin(self, instance: Instance) -> None:
        """Called before the first step, on one rank: writes files into the instance's folder that a person can check
        before a long training."""

    def validate(self, network: Any, instance: Instance) -> Validation:
        """Measure the network, on one rank, in evaluation mode; stages that have a validation override this."""
        raise NotImplementedError

    def finish(self, network: Any, instance: Instance) -> Outcome:
        """Called after the last step, on one rank: final changes to the network's buffers, and its validation."""
        return Outcome()


def largest_micro_batch(stage: Fit, *, world_size: int) -> int:
    """The number of examples in the largest micro-batch of any rank."""
    of_rank = -(-stage.batch_size // world_size)
    return -(-of_rank // stage.gradient_accumulation_steps)


def spare_path(instance: Instance) -> Path:
    """Path of the weights that `keep` does not select (the best or the last), if the training validates."""
    assert isinstance(instance.stage, Fit)
    return instance.path / (BEST if instance.stage.keep == "last" else LAST)


def weights_path(instance: Instance) -> Path:
    """Path of a finished training's weights."""
    return instance.path / WEIGHTS


def is_whole(path: Path) -> bool:
    """True if a .safetensors file is as long as its header says; only the header is read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, MemoryError, OverflowError):
        return False
    return path.stat().st_size == 8 + length + max(ends, default=0)


def load_trained(instance: Instance, *, device: torch.device | str = "cpu") -> Any:
    """The trained network of a finished `Fit` instance, in evaluation mode.

    Raises ValueError if the file is damaged, or if it holds the weights of another architecture.
    """
    return load_weights(instance, weights_path(instance), device=device)


def load_weights(instance: Instance, path: Path, *, device: torch.device | str = "cpu") -> Any:
    """As `load_trained`, from a weight file at any place."""
    import torch
    from safetensors.torch import load_file

    assert isinstance(instance.stage, Fit)
    model = instance.stage.model(instance, pretrained=False)

    if not is_whole(path):
        raise ValueError(f"{path} is damaged; delete it, so that {instance.name} trains again")
    state = load_file(path)
    wanted = model.state_dict()
    missing, unexpected = _difference(state, wanted)
    if missing or unexpected:
        raise ValueError(f"{path} does not fit {instance.name}: {_in_words(state, wanted, missing, unexpected)}")
    model.load_state_dict(state)
    return model.to(device).to(memory_format=torch.channels_last).eval()


def _in_words(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], missing: Sequence[str], unexpected: Sequence[str]
) -> str:
    """What the file lacks, has besides, or has in another shape; the first three of each."""
    shapes = [
        f"{name} is {list(found[name].shape)} in the file and {list(wanted[name].shape)} in the network"
        for name in missing
        if name in found
    ]
    lacks, more = [n for n in missing if n not in found], [n for n in unexpected if n not in wanted]
    parts = [f"it lacks {', '.join(lacks[:3])}"] if lacks else []
    parts += [f"it has {', '.join(more[:3])}, which the network does not"] if more else []
    return "; ".join([*parts, *shapes[:3]])


def _difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> tuple[Sequence[str], Sequence[str]]:
    def fits(name: str) -> bool:
        return name in found and name in wanted and found[name].shape == wanted[name].shape

    return [n for n in wanted if not fits(n)], [n for n in found if not fits(n)]
