"""One rank's share of every batch of a training, read through torch's loader.

A step's batch is split over ranks, and a rank's share over `gradient_accumulation_steps` micro-batches, computed one
after the other. A last batch may be too short for all ranks: one without examples left runs a dummy forward pass on
the batch's first example, so that collectives match, and its loss counts for nothing.
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

from cluster.faults import FAULT, readable_example
from cluster.loader_failures import Collated, Examples, batches_of, start_loader
from cluster.loader_memory import AHEAD, ReusedMemory, SharedMemory
from cluster.loader_server import START_METHOD
from cluster.shared_memory import is_about_room, out_of_room, require_room
from cluster.socket_folders import use_short_folder_for_multiprocessing
from shards.lanes import lane_share, num_batches, occurrences
from wsss.contract.fit import Draw, Fit, TrainingSet

_Share = tuple[list[Draw], bool]
"""A part's examples; False where none is the rank's own."""


@dataclass(frozen=True)
class Part:
    """What is computed at once."""

    batch: dict[str, Any]
    present: bool
    """False where it only keeps the others company."""
    faults: list[str] = field(default_factory=list)
    """What could not be read and is stood in for, with its cause."""


class RankBatches:
    """The batches of one rank of `world_size`, of all epochs."""

    def __init__(
        self,
        examples: TrainingSet,
        stage: Fit,
        *,
        rank: int,
        world_size: int,
        device: torch.device,
        folder: Path | None = None,
    ) -> None:
        """`folder`: where the loader's processes leave word of what they do (`cluster.crash_files`)."""
        self._folder = folder
        self._examples, self._stage, self._rank, self._num_ranks = examples, stage, rank, world_size
        self._device, self._shared = device, SharedMemory()
        # Drawn-more-often samples can make epochs differ by a few records: the schedule needs all lengths beforehand.
        self.num_draws = [examples.num_draws(epoch) for epoch in range(stage.num_epochs)]
        self.steps = [num_batches(number, global_batch=stage.batch_size) for number in self.num_draws]
        self._planned: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def epoch_ends(self) -> list[int]:
        """Steps done at the end of every epoch."""
        return np.cumsum(self.steps).tolist()

    @property
    def are_whole(self) -> bool:
        """True where no epoch ends with a short batch: then every rank always has examples of its own."""
        return all(number % self._stage.batch_size == 0 for number in self.num_draws)

    @property
    def _part_size(self) -> int:
        """The most examples that are computed at once."""
        return self._stage.batch_size // (self._num_ranks * self._stage.gradient_accumulation_steps)

    def after(self, first: int) -> Iterator[list[Part]]:
        """The parts of every step after step `first`.

        One loader for all epochs: its processes would take seconds to start anew.
        """
        workers = self._stage.loader_workers
        if workers:
            use_short_folder_for_multiprocessing()
            example = readable_example(self._examples, Draw(0, 0))
            require_room(example, batch_size=self._part_size, workers=workers)
        loader = DataLoader(
            Examples(self._examples),
            batch_sampler=_Lazy(lambda: (places for step in self._shares(first) for places, _ in step)),
            collate_fn=Collated(ReusedMemory(self._part_size)),
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            multiprocessing_context=START_METHOD if workers else None,
            worker_init_fn=partial(start_loader, folder=self._folder) if workers else None,
            pin_memory=self._device.type == "cuda",
        )
        loaded = _explained(batches_of(iter(loader), folder=self._folder), workers=workers)
        for step in self._shares(first):
            yield [self._part(next(loaded), present) for _, present in step]

    def _shares(self, first: int) -> Iterator[list[_Share]]:
        """What this rank computes in every step after step `first`."""
        step = 0
        for epoch, steps in enumerate(self.steps):
            for batch in range(max(0, min(first - step, steps)), steps):
                yield list(self._parts(epoch, batch))
            step += steps

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of an epoch, and how often each draw's example was drawn before; this one's and the last one's."""
        if epoch not in self._planned:
            # The loader reads ahead: it may be in the next epoch while the training ends this one.
            self._planned = {known: plan for known, plan in self._planned.items() if abs(known - epoch) == 1}
            order = self._examples.order(epoch)
            assert len(order) == self.num_draws[epoch], "a training set says how long its epochs are"
            self._planned[epoch] = (order, occurrences(order))
        return self._planned[epoch]

    def _parts(self, epoch: int, batch: int) -> Iterator[_Share]:
        """A part that rank 0, which is dealt to first, has no example for is left out on all ranks."""
        stage, world_size = self._stage, self._num_ranks
        deal = {"batch": batch, "global_batch": stage.batch_size, "world_size": world_size}
        order, seen = self._plan(epoch)
        share, of_first = (lane_share(len(order), rank=rank, **deal) for rank in (self._rank, 0))
        for start in range(0, len(of_first), self._part_size):
            part = share[start : start + self._part_size]
            places = part or [batch * stage.batch_size]
            yield [Draw(int(order[i]), epoch, int(seen[i])) for i in places], len(part) > 0

    def _part(self, batch: dict[str, Any], present: bool) -> Part:
        faults = [fault for fault in batch.pop(FAULT) if fault]
        return Part(self._on_device(batch), present, faults)

    def allowed_faults(self, epoch: int) -> int:
        """Examples of an epoch that may be unreadable: a share of it, one where that is less."""
        share = self._stage.max_unreadable
        return max(1, int(share * self.num_draws[epoch])) if share else 0

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        moved = {name: self._to_device(value) for name, value in batch.items()}
        used = {name: _channels_last(value) for name, value in self._stage.on_device(moved).items()}
        return self._shared.taken(batch, used)

    def _to_device(self, value: Any) -> Any:
        return value.to(self._device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def _explained(batches: Iterator[dict[str, Any]], *, workers: int) -> Iterator[dict[str, Any]]:
    """The same batches; where shared memory runs out the error says so in terms of settings."""
    try:
        yield from batches
    except RuntimeError as error:
        if workers and is_about_room(error):
            raise out_of_room(workers) from error
        raise


def _channels_last(value: Any) -> Any:
    """What convolutions compute in. The weights stay as they are: DeepSpeed views them as bytes."""
    is_map = isinstance(value, torch.Tensor) and value.ndim == 4
    return value.to(memory_format=torch.channels_last) if is_map else value


class _Lazy:
    """What torch's loader asks of a batch sampler: it is iterated over once, after the checkpoint is restored."""

    def __init__(self, places: Callable[[], Iterator[list[Draw]]]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._places()
