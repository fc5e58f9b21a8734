from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.ops.histogram_threshold import minimum_error_bin, otsu_bin


def histogram(*bins: int, size: int = 13) -> Tensor:
    return torch.bincount(torch.tensor(bins), minlength=size)


def groups(counts: list[int], cut: int) -> list[list[int]]:
    values = [place for place, count in enumerate(counts) for _ in range(count)]
    return [[value for value in values if value < cut], [value for value in values if value >= cut]]


def plain_otsu(counts: list[int]) -> int:
    """The definition, one cut at a time."""
    found, best = 0, -1.0
    for cut in range(len(counts)):
        low, high = groups(counts, cut)
        if low and high:
            n = len(low) + len(high)
            between = len(low) * len(high) / n**2 * (sum(high) / len(high) - sum(low) / len(low)) ** 2
            if between > best * (1 + 1e-12):
                found, best = cut, between
    return found


def plain_minimum_error(counts: list[int]) -> int:
    found, best = 0, math.inf
    for cut in range(len(counts)):
        both = groups(counts, cut)
        if all(both):
            cost = 0.0
            for group in both:
                share, mean = len(group) / sum(map(len, both)), sum(group) / len(group)
                variance = max(sum((value - mean) ** 2 for value in group) / len(group), 1 / 12)
                cost += share * math.log(variance) - 2 * share * math.log(share)
            if cost < best - 1e-12 * abs(best if math.isfinite(best) else 0):
                found, best = cut, cost
    return found


def test_two_peaks_by_hand() -> None:
    counts = histogram(1, 1, 1, 2, 9, 9, 10)
    assert int(otsu_bin(counts)) == 3, "the lowest of the cuts between the peaks"
    assert int(minimum_error_bin(counts)) == 3


def test_a_wide_and_a_narrow_group_are_cut_where_they_meet() -> None:
    """Otsu cuts halfway between the means, into the wide group; the mixture knows that it is wide."""
    x = torch.arange(101.0)
    density = 0.5 * torch.exp(-((x - 10) ** 2) / (2 * 2**2)) / 2 + 0.5 * torch.exp(-((x - 60) ** 2) / (2 * 15**2)) / 15
    counts = (1e6 * density).round().to(torch.int64)
    assert 15 <= int(minimum_error_bin(counts)) <= 22
    assert 30 <= int(otsu_bin(counts)) <= 40


@pytest.mark.parametrize("seed", range(7))
def test_the_same_as_the_definitions(seed: int) -> None:
    counts = torch.randint(0, 6, (3, 13), generator=torch.Generator().manual_seed(seed))
    for row, otsu, error in zip(counts.tolist(), otsu_bin(counts), minimum_error_bin(counts), strict=True):
        assert int(otsu) == plain_otsu(row)
        assert int(error) == plain_minimum_error(row)


@pytest.mark.parametrize("method", [otsu_bin, minimum_error_bin])
def test_scaled_counts_give_the_same_cut_and_shifted_ones_a_shifted_cut(method: object) -> None:
    assert callable(method)
    counts = histogram(1, 2, 2, 2, 3, 8, 9, 9)
    cut = int(method(counts))
    assert int(method(1_000_003 * counts)) == cut
    assert int(method(counts.roll(3))) == cut + 3


@pytest.mark.parametrize("method", [otsu_bin, minimum_error_bin])
def test_without_two_groups_nothing_is_below(method: object) -> None:
    assert callable(method)
    assert int(method(histogram(7, 7, 7))) == 0
    assert int(method(torch.zeros(13, dtype=torch.int64))) == 0
