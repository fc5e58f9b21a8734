"""The order of an epoch, in lanes: each rank reads few shards, yet every global batch mixes the whole data set.

    epoch   = shards in random order, each record repeated as often as it is drawn
    lane l  = the l-th of `num_lanes` equal segments of that sequence, shuffled within itself
    batch k = the k-th record of every lane

A global batch of B records has B lanes, so its records come from B positions across the data set. A rank owns
consecutive lanes, so it reads only the corresponding consecutive shards: R ranks together read every shard about once,
not R times. The order does not depend on the number of ranks or loader processes; these only determine which process
reads which lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHUFFLE_WINDOW = 8192
"""Records of a lane that are shuffled together. A longer lane is shuffled window by window, to limit the number of
shards that are read at the same time."""


def lane_order(
    counts: Sequence[int],
    *,
    seed: int,
    epoch: int,
    num_lanes: int,
    times: np.ndarray | None = None,
    window: int = SHUFFLE_WINDOW,
) -> np.ndarray:
    """Record numbers of one epoch, i64[n], batch after batch; depends on the arguments alone.

    `counts`: records per shard; records are numbered consecutively across shards. `times`, i64[sum(counts)] >= 0: how
    often each record is drawn (once if None). Batch k is entries k * num_lanes to (k + 1) * num_lanes - 1. The last
    batch is short if n is not a multiple of num_lanes; its entries are spread evenly over the lanes.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    sequence = _in_shard_order(np.asarray(counts, dtype=np.int64), generator)
    if times is not None:
        sequence = np.repeat(sequence, times[sequence])
    number = len(sequence)
    ends = np.arange(num_lanes + 1, dtype=np.int64) * number // num_lanes
    lane = np.repeat(np.arange(num_lanes), np.diff(ends))
    index = np.arange(number) - ends[lane]
    shuffled = sequence[np.lexsort((generator.random(number), index // window, lane))]
    return shuffled[np.lexsort((lane, index))]


def _in_shard_order(counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Record numbers, i64[sum(counts)]: the shards permuted, the records of each shard consecutive."""
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    shards = generator.permutation(len(counts))
    sizes = counts[shards]
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(counts) else np.zeros(0, np.int64)
    return np.arange(starts[-1]) - np.repeat(before, sizes) + np.repeat(starts[shards], sizes)


def lane_share(num_records: int, *, batch: int, global_batch: int, rank: int, world_size: int) -> range:
    """Positions in the epoch's order that one rank reads of one global batch: consecutive lanes, fixed over batches.

    The shares of all ranks are disjoint and together form the batch, in order. A short last batch is divided evenly:
    the first ranks get one record more if it does not divide, and some ranks get none if it has fewer records than
    ranks.
    """
    start = batch * global_batch
    number = max(0, min(global_batch, num_records - start))
    whole, over = divmod(number, world_size)
    first = rank * whole + min(rank, over)
    return range(start + first, start + first + whole + (rank < over))


def num_batches(num_records: int, *, global_batch: int) -> int:
    """Batches of an epoch; the last one may be short."""
    return -(-num_records // global_batch)


def occurrences(order: np.ndarray) -> np.ndarray:
    """i64[n]: how often the value of each entry of i64[n] occurs before that entry."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    counts = np.empty_like(order)
    counts[by_value] = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    return counts
