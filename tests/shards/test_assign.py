from __future__ import annotations

import numpy as np
import pytest

from shards.assign import epoch_order, num_batches, occurrences, rank_share

COUNTS = [[], [1], [5], [0, 3, 0], [7, 2, 0, 11, 3], [3] * 23]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("window", [1, 2, 8])
def test_every_record_exactly_once_in_every_epoch(counts: list[int], window: int) -> None:
    everything = {(shard, record) for shard, count in enumerate(counts) for record in range(count)}
    for epoch in range(3):
        order = epoch_order(counts, seed=5, epoch=epoch, window=window)
        assert order.dtype == np.int64 and order.shape == (sum(counts), 2)
        assert {(int(shard), int(record)) for shard, record in order} == everything


def test_order_depends_on_seed_and_epoch_alone() -> None:
    base = epoch_order(COUNTS[5], seed=1, epoch=0)
    np.testing.assert_array_equal(base, epoch_order(list(COUNTS[5]), seed=1, epoch=0))
    assert (base != epoch_order(COUNTS[5], seed=1, epoch=1)).any()
    assert (base != epoch_order(COUNTS[5], seed=2, epoch=0)).any()


def test_window_bounds_how_many_shards_are_open_at_once() -> None:
    order = epoch_order([4] * 20, seed=0, epoch=0, window=3)
    blocks = [set(order[start : start + 12, 0].tolist()) for start in range(0, 80, 12)]
    assert [len(block) for block in blocks] == [3, 3, 3, 3, 3, 3, 2]
    assert len(set.union(*blocks)) == 20
    assert len({tuple(order[start : start + 4, 0]) for start in range(0, 12, 4)}) > 1
    assert set(order[:4, 0].tolist()) != {order[0, 0]}, "records of the shards of a window are mixed"


@pytest.mark.parametrize("num_records", [0, 1, 7, 12, 13, 24])
@pytest.mark.parametrize("global_batch", [1, 4, 6])
def test_shares_make_up_the_batches_for_any_number_of_ranks(num_records: int, global_batch: int) -> None:
    batches = num_batches(num_records, global_batch=global_batch)
    expected = [list(range(num_records))[b * global_batch : (b + 1) * global_batch] for b in range(batches)]
    assert [position for part in expected for position in part] == list(range(num_records)) and all(expected)
    for num_ranks in range(1, 6):
        for batch in range(batches):
            shares = [
                rank_share(num_records, batch=batch, global_batch=global_batch, rank=rank, num_ranks=num_ranks)
                for rank in range(num_ranks)
            ]
            assert sorted(position for share in shares for position in share) == expected[batch]
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_last_short_batch_leaves_some_ranks_without_a_share() -> None:
    shares = [list(rank_share(9, batch=2, global_batch=4, rank=rank, num_ranks=4)) for rank in range(4)]
    assert shares == [[8], [], [], []]


def test_occurrences_count_what_stands_in_front() -> None:
    order = np.array([3, 1, 3, 3, 0, 1, 7])
    assert occurrences(order).tolist() == [0, 0, 1, 2, 0, 1, 0]
    assert occurrences(np.zeros(0, dtype=np.int64)).tolist() == []
