"""Shared memory of the loader's processes, reused for every batch.

torch's loader sends every batch in newly allocated shared memory. The system allocates and clears its pages in the
loader's process, maps them in the rank, and frees them again. That is a fifth of the cost of an image of 352 pixels
from file to batch (`tests/benchmarks/streaming.py`). Here each process has one buffer per batch that it may have in
flight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import default_collate, get_worker_info

AHEAD = 2
"""Batches that a loader's process may prepare in advance: the loader's `prefetch_factor`."""
_SMALLEST = 1 << 16
"""Tensors of at least this many bytes per example reuse their buffer."""


def bytes_in_use(example: Mapping[str, Any], *, batch_size: int) -> int:
    """Bytes of shared memory that one loader process uses for the large tensors of examples like this one."""
    large = [value.nbytes for value in example.values() if _is_large(value)]
    return (AHEAD + 1) * batch_size * sum(large)


class ReusedMemory:
    """Collates examples like torch's `default_collate`, but writes large tensors into buffers that are used in turn.

    A process starts on batch n + AHEAD when the rank takes batch n out of the loader. With AHEAD + 1 buffers, a batch
    therefore stays unchanged until the rank asks for the next one; `SharedMemory.copy_reused` copies it before that.
    """

    def __init__(self, batch_size: int) -> None:
        """`batch_size`: the largest number of examples in a batch."""
        self._batch_size, self._number = batch_size, 0
        self._buffers: dict[str, torch.Tensor] = {}

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if get_worker_info() is None:
            return default_collate(examples)
        large = [name for name, value in examples[0].items() if _is_large(value)]
        batch = default_collate([{name: e[name] for name in e if name not in large} for e in examples])
        batch |= {name: self._stacked(name, [e[name] for e in examples]) for name in large}
        self._number += 1
        return batch

    def _stacked(self, name: str, values: list[torch.Tensor]) -> torch.Tensor:
        buffer = self._buffer(name, values[0])[: len(values)]
        return torch.stack(values, out=buffer)

    def _buffer(self, name: str, value: torch.Tensor) -> torch.Tensor:
        shape = (AHEAD + 1, self._batch_size, *value.shape)
        buffers = self._buffers.get(name)
        if buffers is None or buffers.shape != shape or buffers.dtype != value.dtype:
            buffers = self._buffers[name] = torch.empty(shape, dtype=value.dtype).share_memory_()
        return buffers[self._number % len(buffers)]


class SharedMemory:
    """The rank's side: keeps the loader processes' buffers mapped, and copies the tensors that outlive a batch."""

    def __init__(self) -> None:
        self._mapped: dict[int, torch.UntypedStorage] = {}

    def copy_reused(self, batch: dict[str, Any], used: dict[str, Any]) -> dict[str, Any]:
        """`used`, which was computed from `batch`; tensors in buffers that the loader will overwrite are copied."""
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
    """The address of a tensor's storage."""
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) else None
