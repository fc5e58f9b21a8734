from __future__ import annotations

import numpy as np
import pytest

from shards.ranges import from_ranges, to_ranges


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([7], "7"), ([1, 2], "1-2"), ([1, 2, 3, 5, 7, 8], "1-3,5,7-8"), (range(1, 201), "1-200")],
)
def test_by_hand(numbers: list[int], text: str) -> None:
    assert to_ranges(tuple(numbers)) == text
    assert from_ranges(text) == list(numbers)


def test_any_set_comes_back() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        numbers = np.flatnonzero(generator.random(211) < generator.random()).tolist()
        assert from_ranges(to_ranges(tuple(numbers))) == numbers


@pytest.mark.parametrize("text", ["x", "1,", "3-1", "2,1", "1-2,2", "1,2", "01", " 1", "1--2", "-1"])
def test_other_text(text: str) -> None:
    with pytest.raises(ValueError):
        from_ranges(text)
