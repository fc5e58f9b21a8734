"""The result of a `Reduce` stage's counters: integer arrays that are summed over shards, and rows that are appended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The counts of one shard, or of several after `+`. `Counts()` is the empty sum.

    Both operands of `+` have the same names and shapes, unless one of them is empty.
    """

    sums: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name -> i64 array: added element by element."""
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name -> array whose rows are appended, for results per image. Shards arrive in any order, so each row must
    identify its image."""

    def __add__(self, other: Counts) -> Counts:
        if not self.sums and not self.rows:
            return other
        if not other.sums and not other.rows:
            return self
        return Counts(
            sums={name: array + other.sums[name] for name, array in self.sums.items()},
            rows={name: np.concatenate([array, other.rows[name]]) for name, array in self.rows.items()},
        )

    def total(self, name: str) -> int:
        """The value of a sum that is a single number."""
        return int(self.sums[name])
