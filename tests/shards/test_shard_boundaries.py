from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shards.layer import ShardError
from shards.shard_boundaries import (
    BOUNDARIES,
    boundaries_by_bytes,
    boundaries_by_count,
    read_boundaries,
    write_boundaries,
)

OVERHEAD = 2048


@pytest.mark.parametrize(
    ("num_samples", "size", "boundaries"), [(7, 3, (0, 3, 6, 7)), (6, 3, (0, 3, 6)), (2, 3, (0, 2)), (1, 1, (0, 1))]
)
def test_by_count(num_samples: int, size: int, boundaries: tuple[int, ...]) -> None:
    assert boundaries_by_count(num_samples, size=size) == boundaries


def test_by_bytes_by_hand() -> None:
    sizes = np.array([10, 10, 10, 10, 10, 10]) * 1000 - OVERHEAD
    assert boundaries_by_bytes(sizes, target=60_000) == (0, 6)
    assert boundaries_by_bytes(sizes, target=59_999) == (0, 3, 6)  # two equal shares, not 50,000 and a small rest
    assert boundaries_by_bytes(sizes, target=20_000) == (0, 2, 4, 6)
    assert boundaries_by_bytes(sizes, target=1) == (0, 1, 2, 3, 4, 5, 6)  # no share without an image makes a shard
    assert boundaries_by_bytes(np.array([0, 0, 0]), target=10**8) == (
        0,
        3,
    )  # files that are missing are listed all the same


@pytest.mark.parametrize("seed", range(20))
def test_every_sample_once_and_shards_of_about_the_target(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, 200_000, int(generator.integers(1, 2003)))
    sizes[generator.random(len(sizes)) < 0.01] = 3_000_000
    target = int(generator.integers(1, 5_000_000))
    boundaries = boundaries_by_bytes(sizes, target=target)
    assert boundaries[0] == 0 and boundaries[-1] == len(sizes) and list(boundaries) == sorted(set(boundaries))
    weights = [int((sizes[start:end] + OVERHEAD).sum()) for start, end in pairwise(boundaries)]
    largest = int(sizes.max()) + OVERHEAD
    assert len(weights) <= -(-sum(weights) // target)
    assert max(weights) <= target + largest
    if len(weights) > 1 and largest <= target:
        assert min(weights) >= sum(weights) / -(-sum(weights) // target) - largest


def test_sums_that_leave_32_bits_and_many_shares() -> None:
    sizes = np.full(1009, 2**31 - 1, dtype=np.int32)
    boundaries = boundaries_by_bytes(sizes, target=2**32)
    assert len(boundaries) - 1 == -(-1009 * (2**31 - 1 + OVERHEAD) // 2**32)
    assert set(np.diff(boundaries).tolist()) <= {1, 2}


def test_kept_cuts_come_back(tmp_path: Path) -> None:
    boundaries = {"train": (0, 4, 7), "val": (0, 2)}
    assert read_boundaries(tmp_path, {"train": 7, "val": 2}) is None
    write_boundaries(tmp_path, boundaries)
    assert read_boundaries(tmp_path, {"train": 7, "val": 2}) == boundaries


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format":2,"splits":{"train":[0,7]}}',
        '{"format":1,"splits":{"val":[0,7]}}',
        '{"format":1,"splits":{"train":[0,8]}}',
        '{"format":1,"splits":{"train":[0,5,5,7]}}',
        '{"format":1,"splits":{"train":[0,true,7]}}',
        '{"format":1,"splits":{"train":[7]}}',
        '{"format":1,"splits":{"train":["0","7"]}}',
    ],
)
def test_kept_cuts_of_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / BOUNDARIES).write_text(text)
    with pytest.raises(
        ShardError, match=r"shard_boundaries.json does not match the listed samples; delete its folder and run its"
    ):
        read_boundaries(tmp_path, {"train": 7})
