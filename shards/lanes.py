"""The order of an epoch, in lanes: what is read together lies together, and every global batch is a mixture.

    epoch   = shards in a random order, each record as often as it is drawn, one after the other
    lane l  = the l-th of `num_lanes` equal stretches of that, shuffled in itself
    batch k = the k-th record of every lane

A global batch of B records has B lanes, so it draws on B places of the whole set, while a rank that owns a run of lanes
reads a run of shards and no other: R ranks together read every shard about once, not R times. Nothing depends on the
number of ranks or of loader processes; they only decide who reads which lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHUFFLE_WINDOW = 8192
"""Records of a lane that are shuffled together; a longer lane is shuffled stretch by stretch, few shards at once."""


def lane_order(
    counts: Sequence[int],
    *,
    seed: int,
    epoch: int,
    num_lanes: int,
    times: np.ndarray | None = None,
    window: int = SHUFFLE_WINDOW,
) -> np.ndarray:
    """Record numbers of one epoch, i64[n], batch after batch; a function of the arguments alone.

    `counts`: records of every shard; records are numbered through all of them. `times`, i64[sum(counts)] >= 0: how
    often each is drawn, once where None. Batch k is entries k * num_lanes to (k + 1) * num_lanes - 1; the last one is
    short where n is no multiple of the lanes, and its entries are spread evenly over them.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    sequence = _in_shard_order(np.asarray(counts, dtype=np.int64), generator)
    if times is not None:
        sequence = np.repeat(sequence, times[sequence])
    number = len(sequence)
    ends = np.arange(num_lanes + 1, dtype=np.int64) * number // num_lanes
    lane = np.repeat(np.arange(num_lanes), np.diff(ends))
    place = np.arange(number) - ends[lane]
    shuffled = sequence[np.lexsort((generator.random(number), place // window, lane))]
    return shuffled[np.lexsort((lane, place))]


def _in_shard_order(counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Record numbers, i64[sum(counts)], the shards permuted and each shard's records in a row."""
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    shards = generator.permutation(len(counts))
    sizes = counts[shards]
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(counts) else np.zeros(0, np.int64)
    return np.arange(starts[-1]) - np.repeat(before, sizes) + np.repeat(starts[shards], sizes)


def lane_share(num_records: int, *, batch: int, global_batch: int, rank: int, world_size: int) -> range:
    """Positions in the epoch's order that one rank takes of one global batch: a run of lanes, the same in every batch.

    The shares of all ranks are disjoint and make up the batch in order. Of a short last batch a rank takes its part
    of what there is: the first ranks one more where it does not divide, none where there are fewer records than ranks.
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
    """i64[n]: how often each entry of i64[n] stands further in front."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    counts = np.empty_like(order)
    counts[by_value] = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    return counts
