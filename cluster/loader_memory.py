"""Shared memory of the loader's processes, used again batch after batch.

torch's loader sends every batch in shared memory of its own: the system makes and clears its pages in the loader's
process, maps them in the rank, and frees them again, a fifth of what a picture of 352 pixels costs from file to batch
(`tests/benchmarks/streaming.py`). Here each process has as many places as it may have batches on their way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import default_collate, get_worker_info

AHEAD = 2
"""Batches that a loader's process may have made before they are asked for: the loader's `prefetch_factor`."""
_SMALLEST = 1 << 16
"""Bytes of one example's tensor from which on its place is used again."""


def bytes_in_use(example: Mapping[str, Any], *, batch_size: int) -> int:
    """Shared memory that one process of a loader takes for the large tensors of examples like this one."""
    large = [value.nbytes for value in example.values() if _is_large(value)]
    return (AHEAD + 1) * batch_size * sum(large)


class ReusedMemory:
    """What makes a batch of examples, as torch's `default_collate`; large tensors lie in places that are used in turn.

    A process is asked for its batch number n + AHEAD when the rank takes its batch n out of the loader: with one place
    more than that, a batch stays as it is until the rank asks for the next one. `SharedMemory.taken` copies it by then.
    """

    def __init__(self, batch_size: int) -> None:
        """`batch_size`: the most examples of a batch."""
        self._batch_size, self._number = batch_size, 0
        self._places: dict[str, torch.Tensor] = {}

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if get_worker_info() is None:
            return default_collate(examples)
        large = [name for name, value in examples[0].items() if _is_large(value)]
        batch = default_collate([{name: e[name] for name in e if name not in large} for e in examples])
        batch |= {name: self._stacked(name, [e[name] for e in examples]) for name in large}
        self._number += 1
        return batch

    def _stacked(self, name: str, values: list[torch.Tensor]) -> torch.Tensor:
        place = self._place(name, values[0])[: len(values)]
        return torch.stack(values, out=place)

    def _place(self, name: str, value: torch.Tensor) -> torch.Tensor:
        shape = (AHEAD + 1, self._batch_size, *value.shape)
        places = self._places.get(name)
        if places is None or places.shape != shape or places.dtype != value.dtype:
            places = self._places[name] = torch.empty(shape, dtype=value.dtype).share_memory_()
        return places[self._number % len(places)]


class SharedMemory:
    """The rank's side: the memory of the loader's processes stays mapped, and what is kept of a batch is copied."""

    def __init__(self) -> None:
        self._mapped: dict[int, torch.UntypedStorage] = {}

    def taken(self, batch: dict[str, Any], used: dict[str, Any]) -> dict[str, Any]:
        """`used`, which was made of `batch`, with copies where it is the memory that the loader will write to again."""
        reused = {}
        for value in batch.values():
            if isinstance(value, torch.Tensor) and value.is_shared() and value.nbytes >= _SMALLEST * len(value):
                storage = value.untyped_storage()
                reused[storage.data_ptr()] = storage
        self._mapped |= reused
        return {name: value.clone() if _memory(value) in reused else value for name, value in used.items()}


def _is_large(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.nbytes >= _SMALLEST


def _memory(value: Any) -> int | None:
    """Where a tensor's memory begins."""
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) else None
