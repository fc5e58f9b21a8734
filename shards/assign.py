"""Who reads what, as pure functions: the order of an epoch depends on (seed, epoch, shard sizes) alone.

The number of ranks and loader workers does not enter: it only decides who of them takes which part of a global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHUFFLE_WINDOW = 8
"""Shards that are shuffled together: large enough to mix, small enough to be held open or cached at once."""


def epoch_order(counts: Sequence[int], *, seed: int, epoch: int, window: int = SHUFFLE_WINDOW) -> np.ndarray:
    """The order of one epoch: i64[sum(counts), 2] rows of (shard, record), every record exactly once.

    Shards are permuted, then taken `window` at a time and their records permuted together.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    shards = generator.permutation(len(counts))
    blocks = []
    for start in range(0, len(shards), window):
        block = [
            np.stack([np.full(counts[s], s), np.arange(counts[s])], axis=1) for s in shards[start : start + window]
        ]
        blocks.append(generator.permutation(np.concatenate(block)))
    return np.concatenate(blocks).astype(np.int64) if blocks else np.zeros((0, 2), dtype=np.int64)


def num_batches(num_records: int, *, global_batch: int) -> int:
    """Batches of an epoch; the last one may be short."""
    return -(-num_records // global_batch)


def rank_share(num_records: int, *, batch: int, global_batch: int, rank: int, num_ranks: int) -> range:
    """Positions in the epoch's order that one rank takes of one global batch: every `num_ranks`-th of it.

    The shares of all ranks are disjoint and make up the batch, in an order that does not depend on `num_ranks`.
    A share is empty where the last batch is shorter than the number of ranks.
    """
    start = batch * global_batch
    return range(start + rank, min(start + global_batch, num_records), num_ranks)


def occurrences(order: np.ndarray) -> np.ndarray:
    """i64[n]: how often each entry of i64[n] stands further in front."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    counts = np.empty_like(order)
    counts[by_value] = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    return counts
