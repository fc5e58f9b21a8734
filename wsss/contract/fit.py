"""What every training stage shares: optimisation settings, the data set's contract, and the weights it leaves."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from wsss.contract.settings import PerformanceOnly, active_unless, active_with, settings
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
    """How often the epoch has drawn it before: every draw is augmented anew."""


class TrainingSet(Protocol):
    """Random access to training examples; what an example holds depends on the draw and the seed alone."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray:
        """i64[n]: the indices of one epoch, in order, a repeated index for a sample that is drawn more often."""
        ...

    def num_draws(self, epoch: int) -> int:
        """Length of `order(epoch)`: asked for all epochs at once, their orders one after the other."""
        ...

    def example(self, draw: Draw) -> dict[str, Any]:
        """One example: name -> tensor, or `key` -> str.

        Raises `BadSampleError` or `ShardError` where it cannot be read.
        """
        ...

    def name_of(self, index: int) -> str:
        """What an example is called where it cannot be read: its shard and its key."""
        ...


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    score: float
    """The figure that `keep = "best"` compares, higher is better."""
    outcome: Outcome


@settings
class Fit(Stage):
    """A stage that trains one task. The number of ranks and the global batch are part of the fingerprint."""

    seed_shift: Annotated[int, Field(ge=0), active_unless("seed_shift", 0)] = 0
    """Added to the recipe's seed: the same training drawn anew, to see how far results spread."""
    world_size: Annotated[int, Field(ge=1)] = 1
    """Processes that train together, one DeepSpeed rank each."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Examples per optimisation step over all ranks: a multiple of `world_size` times `gradient_accumulation_steps`."""
    num_epochs: Annotated[int, Field(ge=1)] = 5
    """Passes over the training set."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimisation method."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Rate of the parameters that start from given weights."""
    head_lr_multiplier: Annotated[float, Field(gt=0)] = 10.0
    """Rate of new parameters as a multiple of `learning_rate`."""
    bias_lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    """Rate of biases as a multiple of their weights'."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; the first beta of Adam and AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decay of weights; norms and biases are not decayed."""
    schedule: Literal["poly", "step"] = "poly"
    """How the rate falls: by a power of the steps left, or by a factor every few epochs."""
    poly_power: Annotated[float, Field(ge=0), active_with("schedule", "poly")] = 0.9
    """poly: rate at step i of n is (1 - i / n) ** poly_power of its start."""
    step_epochs: Annotated[int, Field(ge=1), active_with("schedule", "step")] = 3
    """step: epochs between two falls (NoPeopleAllowed: 3; FickleNet: 10)."""
    step_factor: Annotated[float, Field(gt=0, le=1), active_with("schedule", "step")] = 0.2
    """step: what every fall multiplies the rate by (NoPeopleAllowed: 0.2; FickleNet: 0.5)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly to its start."""
    gradient_clipping: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Parts that a rank's share of a batch is computed in, one after the other; the loss is that of the
    whole batch, the statistics of norms that are not frozen those of a part."""
    ema_decay: Annotated[float, Field(ge=0, lt=1), active_unless("ema_decay", 0.0)] = 0.0
    """Decay, per step, of a moving average of the weights that is validated and kept in their place; 0 keeps none."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO stage."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in torch's autocast; weights stay fp32."""
    checkpoint_every: Annotated[int, Field(ge=0), PerformanceOnly()] = 0
    """Steps between checkpoints; 0 keeps one per epoch."""
    validate_every: Annotated[int, Field(ge=0)] = 0
    """Epochs between validations; 0 validates the last weights alone, and a segmenter not at all."""
    keep: Literal["last", "best"] = "last"
    """Weights that later stages read: the last, or those that validated best."""
    max_unreadable: Annotated[float, Field(ge=0, le=1), PerformanceOnly()] = 0.01
    """Share of an epoch's examples (at least one, unless 0) that may be unreadable before the training stops; each is
    recorded, and the next one stands in for it."""
    loader_workers: Annotated[int, Field(ge=0), PerformanceOnly()] = 0
    """Processes per rank that read and augment; 0 does it in the rank itself."""

    def check(self, instance: Instance) -> None:
        parts = self.world_size * self.gradient_accumulation_steps
        if self.batch_size % parts:
            below = self.batch_size // parts * parts
            valid = " or ".join(str(n) for n in (below, below + parts) if n > 0)
            factors = f"world_size = {self.world_size}"
            if self.gradient_accumulation_steps > 1:
                factors += f" times gradient_accumulation_steps = {self.gradient_accumulation_steps}"
            raise ValueError(
                f"{instance.name}.batch_size = {self.batch_size} is no multiple of {factors}; {valid} would be"
            )
        if self.ema_decay and self.zero_stage == 3:
            raise ValueError(
                f"{instance.name}.ema_decay = {self.ema_decay} averages whole weights, which no rank holds with "
                "zero_stage = 3; set zero_stage = 2, or ema_decay = 0"
            )
        self._check_validation(instance)

    def _check_validation(self, instance: Instance) -> None:
        validates = type(self).validate is not Fit.validate
        if self.validate_every and not validates:
            raise ValueError(f"{instance.name}.validate_every: {self.kind} has no validation; leave it out")
        if self.validate_every > self.num_epochs:
            raise ValueError(
                f"{instance.name}.validate_every = {self.validate_every} is never reached in "
                f"num_epochs = {self.num_epochs}"
            )
        if self.keep == "best" and not self.validate_every:
            raise ValueError(f"{instance.name}.keep = 'best' needs validate_every, of 1 or more epochs")

    def draws(self) -> bool:
        return True

    def is_intact(self, instance: Instance) -> bool:
        return is_whole(weights_path(instance))

    @abstractmethod
    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        """The network; `pretrained` loads the encoder's starting weights, without it weights are random."""

    @abstractmethod
    def task(self, instance: Instance) -> nn.Module:
        """The network with its objective, ready to be trained: a `wsss.tasks.task.Task`."""

    def forward_pass(self, network: Any, image_B3HW: torch.Tensor, instance: Instance) -> Any:
        """What the network gives for a batch, called as the task calls it: `wsss plan` counts its operations."""
        return network(image_B3HW)

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of examples as the task reads it: what is better computed on the training's device than before."""
        return batch

    @abstractmethod
    def training_set(self, instance: Instance) -> TrainingSet:
        """What to train on. Raises ValueError where it is empty."""

    def begin(self, instance: Instance) -> None:
        """Before the first step, on one rank: what is worth a look before hours are spent; files go into its folder."""

    def validate(self, network: Any, instance: Instance) -> Validation:
        """Measure the network, on one rank, in evaluation mode; stages that can do it replace this."""
        raise NotImplementedError

    def finish(self, network: Any, instance: Instance) -> Outcome:
        """After the last step, on one rank: last changes to the network's buffers, and its validation."""
        return Outcome()


def spare_path(instance: Instance) -> Path:
    """Where a training that validates leaves the weights that `keep` does not name: the best, or the last."""
    assert isinstance(instance.stage, Fit)
    return instance.path / (BEST if instance.stage.keep == "last" else LAST)


def weights_path(instance: Instance) -> Path:
    """Where a finished training leaves its weights."""
    return instance.path / WEIGHTS


def is_whole(path: Path) -> bool:
    """True where a .safetensors file is as long as its header says; nothing else of it is read."""
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

    Raises ValueError where the file is damaged or holds the weights of another architecture, naming both sides.
    """
    import torch
    from safetensors.torch import load_file

    assert isinstance(instance.stage, Fit)
    model = instance.stage.model(instance, pretrained=False)

    if not is_whole(weights_path(instance)):
        raise ValueError(f"{weights_path(instance)} is damaged; delete it, and {instance.name} trains again")
    state = load_file(weights_path(instance))
    missing, unexpected = _difference(state, model.state_dict())
    if missing or unexpected:
        raise ValueError(
            f"{weights_path(instance)} does not fit {instance.name}: it lacks {missing[:3]} and has {unexpected[:3]}"
        )
    model.load_state_dict(state)
    return model.to(device).to(memory_format=torch.channels_last).eval()


def _difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> tuple[Sequence[str], Sequence[str]]:
    def fits(name: str) -> bool:
        return name in found and name in wanted and found[name].shape == wanted[name].shape

    return [n for n in wanted if not fits(n)], [n for n in found if not fits(n)]
