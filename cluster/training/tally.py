"""What a task counts in one step, added up over micro-batches and ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

from wsss.tasks.task import TaskOutput


class StepTally:
    """The sum of the outputs' tallies of one step. Examples of a dummy forward pass are not counted."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None

    def add(self, output: TaskOutput, *, present: bool) -> None:
        """Add a micro-batch; `present` is false if its forward pass was a dummy."""
        if output.tally is None:
            return
        own = output.tally.detach() * int(present)
        self._sum = own if self._sum is None else self._sum + own

    def over_ranks(self, world_size: int) -> torch.Tensor | None:
        """The sum over all ranks, which call this together; None if the task counts nothing."""
        if self._sum is not None and world_size > 1:
            dist.all_reduce(self._sum)
        return self._sum
