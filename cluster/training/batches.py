"""One rank's share of every training batch, read through torch's DataLoader.

A step's batch is split over ranks, and a rank's share is split into `gradient_accumulation_steps` micro-batches that
are computed one after the other. If the batch does not divide, the first ranks have one example more, and the last
micro-batch is smaller; losses and norms weight every example equally. The last batch of an epoch may have too few
examples for all ranks. A rank without examples runs a dummy forward pass on the batch's first example, so that
collectives match; its loss is multiplied by 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from cluster.session.socket_folders import use_short_folder_for_multiprocessing
from cluster.training.faults import FAULT, readable_example
from cluster.training.loader_failures import Collated, Examples, batches_of, start_loader
from cluster.training.loader_memory import AHEAD, ReusedMemory, SharedMemory
from cluster.training.loader_server import START_METHOD
from cluster.training.shared_memory import is_about_room, out_of_room, require_room
from shards.lanes import lane_share, num_batches, occurrences
from wsss.contract.fit import Draw, Fit, TrainingSet, largest_micro_batch

_Share = tuple[list[Draw], bool]
"""A micro-batch's draws, and False if it is the dummy of a rank without examples."""


@dataclass(frozen=True)
class MicroBatch:
    """The examples of one forward and backward pass of one rank."""

    batch: dict[str, Any]
    present: bool
    """False if this rank has no examples left in this step and runs a dummy forward pass so that collectives match."""
    faults: list[str] = field(default_factory=list)
    """Examples that could not be read and were replaced by another one, each with the cause."""


class RankBatches:
    """The batches of one of `world_size` ranks, for all epochs."""

    def __init__(
        self,
        examples: TrainingSet,
        stage: Fit,
        *,
        rank: int,
        world_size: int,
        device: torch.device,
        folder: Path | None = None,
        micro_batch_size: int | None = None,
    ) -> None:
        """`folder`: where the loader's processes write what they are working on (`cluster.failures.crash_files`).

        `micro_batch_size`: the most examples in a micro-batch, if not those of the settings.
        """
        self._folder = folder
        self._examples, self._stage, self._rank, self._world_size = examples, stage, rank, world_size
        self._device, self._shared = device, SharedMemory()
        self._micro_batch_size = micro_batch_size or largest_micro_batch(stage, world_size=world_size)
        # Oversampling can make epochs differ by a few examples, and the schedule needs all lengths in advance.
        self.num_draws = [examples.num_draws(epoch) for epoch in range(stage.num_epochs)]
        self.steps = [num_batches(number, global_batch=stage.batch_size) for number in self.num_draws]
        self._planned: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def images_per_step(self, epoch: int) -> float:
        """Examples per step of an epoch, on average over its steps and of all ranks together."""
        return self.num_draws[epoch] / self.steps[epoch]

    @property
    def epoch_ends(self) -> list[int]:
        """Steps done at the end of every epoch."""
        return np.cumsum(self.steps).tolist()

    @property
    def are_full(self) -> bool:
        """True if every rank has its own examples in every micro-batch: then no epoch ends with a short batch."""
        smallest, over = divmod(self._stage.batch_size, self._world_size)
        largest = smallest + (over > 0)
        last = (largest - 1) // self._micro_batch_size * self._micro_batch_size
        return smallest > last and all(number % self._stage.batch_size == 0 for number in self.num_draws)

    def after(self, first: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of every step after step `first`.

        One loader serves all epochs, because starting its processes again would take seconds.
        """
        workers = self._stage.loader_workers
        if workers:
            use_short_folder_for_multiprocessing()
            example = readable_example(self._examples, Draw(0, 0))
            require_room(example, batch_size=self._micro_batch_size, workers=workers)
        loader = DataLoader(
            Examples(self._examples),
            batch_sampler=_Lazy(lambda: (draws for step in self._shares(first) for draws, _ in step)),
            collate_fn=Collated(ReusedMemory(self._micro_batch_size)),
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            multiprocessing_context=START_METHOD if workers else None,
            worker_init_fn=partial(start_loader, folder=self._folder) if workers else None,
            pin_memory=self._device.type == "cuda",
        )
        loaded = _explain_shared_memory_errors(batches_of(iter(loader), folder=self._folder), workers=workers)
        for step in self._shares(first):
            yield [self._micro_batch(next(loaded), present) for _, present in step]

    def _shares(self, first: int) -> Iterator[list[_Share]]:
        """This rank's share of every step after step `first`."""
        step = 0
        for epoch, steps in enumerate(self.steps):
            for batch in range(max(0, min(first - step, steps)), steps):
                yield list(self._split(epoch, batch))
            step += steps

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of an epoch, and how often each draw's example was drawn earlier in it; cached for two epochs."""
        if epoch not in self._planned:
            # The loader reads ahead: it may be in the next epoch while the training ends this one.
            self._planned = {known: plan for known, plan in self._planned.items() if abs(known - epoch) == 1}
            order = self._examples.order(epoch)
            assert len(order) == self.num_draws[epoch], "num_draws of a training set must equal the length of its order"
            self._planned[epoch] = (order, occurrences(order))
        return self._planned[epoch]

    def _split(self, epoch: int, batch: int) -> Iterator[_Share]:
        """This rank's micro-batches of a batch. Those for which rank 0 has no examples are left out on all ranks."""
        stage, world_size = self._stage, self._world_size
        deal = {"batch": batch, "global_batch": stage.batch_size, "world_size": world_size}
        order, seen = self._plan(epoch)
        share, of_first = (lane_share(len(order), rank=rank, **deal) for rank in (self._rank, 0))
        for start in range(0, len(of_first), self._micro_batch_size):
            own = share[start : start + self._micro_batch_size]
            positions = own or [batch * stage.batch_size]
            yield [Draw(int(order[i]), epoch, int(seen[i])) for i in positions], len(own) > 0

    def _micro_batch(self, batch: dict[str, Any], present: bool) -> MicroBatch:
        faults = [fault for fault in batch.pop(FAULT) if fault]
        return MicroBatch(self._on_device(batch), present, faults)

    def allowed_faults(self, epoch: int) -> int:
        """How many examples of an epoch may be unreadable: `max_unreadable` of them, at least one unless it is 0."""
        share = self._stage.max_unreadable
        return max(1, int(share * self.num_draws[epoch])) if share else 0

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        moved = {name: self._to_device(value) for name, value in batch.items()}
        used = {name: _channels_last(value) for name, value in self._stage.on_device(moved).items()}
        return self._shared.copy_reused(batch, used)

    def _to_device(self, value: Any) -> Any:
        return value.to(self._device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def _explain_shared_memory_errors(batches: Iterator[dict[str, Any]], *, workers: int) -> Iterator[dict[str, Any]]:
    """The same batches; if shared memory runs out, the error names the settings to change."""
    try:
        yield from batches
    except RuntimeError as error:
        if workers and is_about_room(error):
            raise out_of_room(workers) from error
        raise


def _channels_last(value: Any) -> Any:
    """Feature maps in channels-last order, for convolutions. Weights stay: DeepSpeed views them as bytes."""
    is_map = isinstance(value, torch.Tensor) and value.ndim == 4
    return value.to(memory_format=torch.channels_last) if is_map else value


class _Lazy:
    """A batch sampler for torch's DataLoader. It is iterated over once, after the checkpoint has been restored."""

    def __init__(self, make: Callable[[], Iterator[list[Draw]]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._make()
