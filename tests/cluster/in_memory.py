"""Examples in memory, for tests of training that do not test reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from wsss.contract.fit import Draw


class InMemory:
    """The rows of tensors of equal length; an epoch draws each row once."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        """`tensors`: name in the example -> values, one row per example; examples also have a key."""
        (self._length,) = {len(rows) for rows in tensors.values()}
        self._tensors = tensors

    def __len__(self) -> int:
        return self._length

    def order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(epoch).permutation(len(self))

    def num_draws(self, epoch: int) -> int:
        return len(self)

    def name_of(self, index: int) -> str:
        return str(index)

    def example(self, draw: Draw) -> dict[str, Any]:
        return {"key": str(draw.index)} | {name: rows[draw.index] for name, rows in self._tensors.items()}
