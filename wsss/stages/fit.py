"""What every training stage shares: optimisation settings, the data set's contract, and the weights it leaves."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import nn

from wsss.settings import settings
from wsss.stages.stage import Instance, Outcome, Stage
from wsss.tasks.task import Task

WEIGHTS = "weights.safetensors"


class TrainingSet(Protocol):
    """Random access to training examples; what an example holds depends on (index, epoch) and the seed alone."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray:
        """i64[n]: the indices of one epoch, in order, a repeated index for a sample that is drawn more often."""
        ...

    def example(self, index: int, epoch: int) -> dict[str, Any]:
        """One example: name -> tensor, or `key` -> str."""
        ...


@settings
class Fit(Stage):
    """A stage that trains one task. The number of ranks and the global batch are part of the fingerprint."""

    num_ranks: Annotated[int, Field(ge=1)] = 1
    """Processes that train together, one DeepSpeed rank each."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Examples per optimisation step over all ranks: a multiple of `num_ranks`."""
    num_epochs: Annotated[int, Field(ge=1)] = 5
    """Passes over the training set."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimisation method."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Rate of the parameters that start from given weights."""
    head_rate_factor: Annotated[float, Field(gt=0)] = 10.0
    """Rate of new parameters as a multiple of `learning_rate`."""
    bias_rate_factor: Annotated[float, Field(gt=0)] = 1.0
    """Rate of biases as a multiple of their weights'."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; the first beta of Adam and AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decay of weights; norms and biases are not decayed."""
    poly_power: Annotated[float, Field(ge=0)] = 0.9
    """Rate at step i of n: (1 - i / n) ** poly_power of its start."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly to its start."""
    gradient_clipping: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO stage."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in torch's autocast; weights stay fp32."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    """Steps between checkpoints; 0 keeps one per epoch."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes per rank that read and augment; 0 does it in the rank itself."""

    def check(self, instance: Instance) -> None:
        if self.batch_size % self.num_ranks:
            below = self.batch_size // self.num_ranks * self.num_ranks
            valid = " or ".join(str(n) for n in (below, below + self.num_ranks) if n > 0)
            raise ValueError(
                f"{instance.name}.batch_size = {self.batch_size} is no multiple of num_ranks = {self.num_ranks}; "
                f"{valid} would be"
            )

    def is_intact(self, instance: Instance) -> bool:
        return is_whole(weights_path(instance))

    @abstractmethod
    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        """The network; `pretrained` loads the encoder's starting weights, without it weights are random."""

    @abstractmethod
    def task(self, instance: Instance) -> Task:
        """The network with its objective, ready to be trained."""

    @abstractmethod
    def training_set(self, instance: Instance) -> TrainingSet:
        """What to train on. Raises ValueError where it is empty."""

    def finish(self, task: Task, instance: Instance) -> Outcome:
        """After the last step, on one rank: last changes to the network's buffers, and its validation."""
        return Outcome()


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
    assert isinstance(instance.stage, Fit)
    model = instance.stage.model(instance, pretrained=False)
    from safetensors.torch import load_file

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
