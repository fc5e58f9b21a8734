"""The order of an epoch in lanes: exact, the same for every number of ranks, and a mixture that is read in runs."""

from __future__ import annotations

import time

import numpy as np
import pytest

from shards.lanes import lane_order, lane_share, num_batches, occurrences

COUNTS = [(5,), (3, 0, 7, 1), (4,) * 13, (16, 2, 9, 31, 8)]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("num_lanes", [1, 3, 8, 64])
@pytest.mark.parametrize("window", [1, 4, 1000])
def test_every_record_once(counts: tuple[int, ...], num_lanes: int, window: int) -> None:
    for epoch in range(3):
        order = lane_order(counts, seed=5, epoch=epoch, num_lanes=num_lanes, window=window)
        assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(sum(counts)))


def test_seed_epoch_and_lanes_decide() -> None:
    base = lane_order(COUNTS[3], seed=1, epoch=0, num_lanes=8)
    np.testing.assert_array_equal(base, lane_order(list(COUNTS[3]), seed=1, epoch=0, num_lanes=8))
    for other in ({"seed": 2}, {"epoch": 1}, {"num_lanes": 16}):
        changed = lane_order(COUNTS[3], **{"seed": 1, "epoch": 0, "num_lanes": 8, **other})
        assert (changed != base).any()


def test_every_record_as_often_as_it_is_drawn() -> None:
    generator = np.random.default_rng(0)
    times = generator.integers(0, 4, sum(COUNTS[3]))
    order = lane_order(COUNTS[3], seed=1, epoch=0, num_lanes=8, times=times)
    np.testing.assert_array_equal(np.bincount(order, minlength=len(times)), times)
    assert len(lane_order(COUNTS[3], seed=1, epoch=0, num_lanes=8, times=np.zeros(66, np.int64))) == 0


@pytest.mark.parametrize("number", [1, 7, 8, 9, 23, 96])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_ranks_share_every_batch(number: int, world_size: int) -> None:
    global_batch = 24
    seen = []
    for batch in range(-(-number // global_batch)):
        shares = [
            lane_share(number, batch=batch, global_batch=global_batch, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
        together = [position for share in shares for position in share]
        assert together == list(range(batch * 24, min((batch + 1) * 24, number)))
        seen += together
    assert seen == list(range(number))


def test_a_batch_is_a_mixture_and_a_rank_reads_runs_of_shards() -> None:
    counts, num_lanes, world_size = [100] * 60, 48, 4
    order = lane_order(counts, seed=3, epoch=0, num_lanes=num_lanes)
    shard = order // 100
    whole_batches = len(order) // num_lanes
    per_batch = [len(set(shard[k * num_lanes : (k + 1) * num_lanes].tolist())) for k in range(whole_batches)]
    assert np.mean(per_batch) > 38, "of 48 records hardly two are of one shard"
    of_rank = []
    for rank in range(world_size):
        deal = {"global_batch": num_lanes, "rank": rank, "world_size": world_size}
        positions = [p for k in range(whole_batches) for p in lane_share(len(order), batch=k, **deal)]
        of_rank.append(set(shard[positions].tolist()))
    assert sum(map(len, of_rank)) <= 60 + world_size, "only a shard on the border of two runs is read twice"
    first = [set(shard[k * num_lanes : (k + 1) * num_lanes][:12].tolist()) for k in range(whole_batches)]
    assert len(set().union(*first[:10])) < 30, "within a few batches a rank has few shards open"


def test_an_epoch_of_64_ranks_goes_on_with_48_in_the_same_order() -> None:
    """456,567 images, balanced, a global batch of 384: counts and order after a change of ranks in the middle."""
    counts = [1000] * 456 + [567]
    times = np.random.default_rng(1).integers(0, 3, sum(counts))
    started = time.process_time()
    order = lane_order(counts, seed=1, epoch=4, num_lanes=384, times=times)
    assert time.process_time() - started < 2
    np.testing.assert_array_equal(np.bincount(order, minlength=len(times)), times)
    steps, cut = -(-len(order) // 384), 500
    seen = np.concatenate([seen_by(order, 64, range(cut)), seen_by(order, 48, range(cut, steps))])
    np.testing.assert_array_equal(seen, order)


def seen_by(order: np.ndarray, world_size: int, steps: range) -> np.ndarray:
    """What the ranks together draw in these steps, batch by batch, rank by rank."""
    deal = {"global_batch": 384, "world_size": world_size}
    shares = [lane_share(len(order), batch=step, rank=rank, **deal) for step in steps for rank in range(world_size)]
    return order[np.concatenate([np.arange(share.start, share.stop) for share in shares])]


def test_a_short_last_batch_is_spread_over_the_lanes() -> None:
    """A rank finds its part of the last batch in the shards that it has open."""
    counts, num_lanes = [50] * 21, 32
    order = lane_order(counts, seed=0, epoch=0, num_lanes=num_lanes)
    over = len(order) % num_lanes
    last, before = order[-over:] // 50, order[-over - num_lanes : -over] // 50
    for rank in range(4):
        deal = {"global_batch": num_lanes, "rank": rank, "world_size": 4}
        batch = len(order) // num_lanes
        mine = order[np.array(lane_share(len(order), batch=batch, **deal))] // 50
        near = set(before[8 * rank : 8 * rank + 8].tolist())
        positions = [p for k in range(batch) for p in lane_share(len(order), batch=k, **deal)]
        assert len(set(mine.tolist()) - set((order[positions] // 50).tolist())) <= 1, (near, last)


@pytest.mark.parametrize(("number", "batches"), [(0, 0), (1, 1), (8, 1), (9, 2), (24, 3)])
def test_the_last_batch_may_be_short(number: int, batches: int) -> None:
    assert num_batches(number, global_batch=8) == batches


def test_occurrences_count_what_stands_in_front() -> None:
    order = np.array([3, 1, 3, 3, 0, 1, 7])
    assert occurrences(order).tolist() == [0, 0, 1, 2, 0, 1, 0]
    assert occurrences(np.zeros(0, dtype=np.int64)).tolist() == []
