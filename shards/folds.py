"""Folds of cross-fitting: parts of the training shards that a network does not learn; pure."""

from __future__ import annotations

from dataclasses import dataclass

TRAIN = "train"
"""The split that is divided into folds."""


@dataclass(frozen=True)
class Fold:
    """One of `of` parts of the shards of every split; parts are numbered from 1."""

    number: int
    of: int

    def leaves_out(self, shard: str) -> bool:
        """True if a network that is trained without this part does not learn the shard."""
        split, number = shard.rpartition("-")[::2]
        return split == TRAIN and fold_of_number(int(number), num_folds=self.of) == self.number


def fold_of(shard: str, *, num_folds: int) -> int:
    """The fold of a shard, 1 to `num_folds`: its number modulo `num_folds`, plus 1. `train-000017`, 2 -> 2."""
    return fold_of_number(int(shard.rpartition("-")[2]), num_folds=num_folds)


def fold_of_number(number: int, *, num_folds: int) -> int:
    """The fold of the shard with a number."""
    return number % num_folds + 1
