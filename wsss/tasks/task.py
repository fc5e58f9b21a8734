"""A task: a network with one training objective. It is independent of ranks; every loss is a sum and a count.

The engine adds the counts of all ranks before it divides, so that one rank, two or eight minimise the same mean
(a mean of per-rank means is a different loss if the counts of ranks differ).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wsss.losses.masked_mean import MaskedSum

Batch = dict[str, Any]


@dataclass(frozen=True)
class TaskOutput:
    """The terms of a loss: loss = sum over terms of weight * numerator / (count + eps), counts summed over ranks."""

    terms: dict[str, MaskedSum]
    weights: dict[str, float]
    eps: float = 0.0
    tally: torch.Tensor | None = None
    """Whole numbers counted on these examples, of any shape; `Task.end_step` gets their sum over all ranks."""

    def total(self) -> torch.Tensor:
        """The loss of a single rank."""
        return combine(self.terms, {name: term.count for name, term in self.terms.items()}, self.weights, self.eps)


def combine(
    terms: dict[str, MaskedSum], counts: dict[str, torch.Tensor], weights: dict[str, float], eps: float
) -> torch.Tensor:
    """sum_i w_i * numerator_i / (count_i + eps), 0 if a count and eps are both 0."""
    parts = []
    for name, term in terms.items():
        divisor = counts[name] + eps
        parts.append(weights[name] * term.numerator / torch.where(divisor > 0, divisor, torch.ones_like(divisor)))
    return torch.stack(parts).sum()


class Task(nn.Module):
    """`forward(batch)` gives the terms of the loss; `network` is what is trained and exported."""

    network: nn.Module

    def begin_step(self, step: int, *, num_steps: int) -> None:
        """Called before every step, 0 to num_steps - 1, for objectives that change while they are trained."""

    def prepare(self, batch: Batch) -> Batch:
        """The batch passed to `forward` in training, after random changes that affect its counts."""
        return batch

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The count of every term of a prepared batch, from its labels alone.

        With gradient accumulation, losses are divided by the counts of all micro-batches, before any of them has run.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot give its counts before the forward pass")

    def end_step(self, step: int, *, tally: torch.Tensor | None) -> None:
        """Called after the weights have changed in step `step`, on all ranks alike.

        `tally`: the outputs' tallies, added up over all examples of the step.
        """

    def end_epoch(self) -> None:
        """Called after the last step of every epoch, before its checkpoint, which holds all parameters and buffers."""

    @abstractmethod
    def forward(self, batch: Batch) -> TaskOutput:
        """The loss terms of a batch of examples."""

    @abstractmethod
    def new_parameters(self) -> Iterator[nn.Parameter]:
        """Randomly initialised parameters, which are trained with the head's learning rate."""
