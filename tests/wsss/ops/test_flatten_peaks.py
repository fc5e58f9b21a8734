from __future__ import annotations

import math
from statistics import fmean, pstdev

import pytest
import torch

from wsss.ops.flatten_peaks import flatten_peaks, largest_scale

K, H, W = 3, 7, 11


def test_by_hand() -> None:
    """Above 0.1 are 0.2 and 0.6: mean 0.4, std 0.2, so with scale 0.5 the exponent is 1 - 0.5 * 0.5 = 0.75."""
    maps = torch.tensor([[[0.0, 0.1, 0.2, 0.6]]])
    wanted = torch.tensor([[[0.0, 0.1**0.75, 0.2**0.75, 0.6**0.75]]])
    torch.testing.assert_close(flatten_peaks(maps, scale=0.5, threshold=0.1), wanted)


def test_by_definition() -> None:
    maps = torch.rand(K, H, W, generator=torch.Generator().manual_seed(5), dtype=torch.float64) ** 3
    maps[2] *= 0.04  # no value above the threshold: the map stays as it is
    found = flatten_peaks(maps, scale=0.3, threshold=0.05)
    for k in range(K):
        above = [value for value in maps[k].flatten().tolist() if value > 0.05]
        exponent = 1 - 0.3 * pstdev(above) / fmean(above) if above else 1.0
        torch.testing.assert_close(found[k], maps[k] ** exponent)
    torch.testing.assert_close(found[2], maps[2])
    assert (found[:2] >= maps[:2]).all() and (found[0] - maps[0]).max() > 0.05


def test_order_zero_and_one_are_kept_and_no_class_gives_none() -> None:
    maps = torch.rand(K, H, W, generator=torch.Generator().manual_seed(6))
    maps[:, 0, 0], maps[:, 6, 10] = 0.0, 1.0
    found = flatten_peaks(maps, scale=0.4, threshold=0.05)
    assert not found[:, 0, 0].any() and (found[:, 6, 10] == 1).all()
    assert torch.equal(found.flatten(1).argsort(dim=1), maps.flatten(1).argsort(dim=1))
    assert torch.equal(flatten_peaks(maps, scale=0.0, threshold=0.05), maps)
    assert flatten_peaks(maps[:0], scale=0.3, threshold=0.05).shape == (0, H, W)


def test_the_largest_scale_is_where_the_worst_map_gets_exponent_zero() -> None:
    """Of values 0.25 and 1, most variable where their frequencies are 4 : 1: mean 0.4, std 0.3, ratio 3/4."""
    assert largest_scale(0.25) == pytest.approx(4 / 3)
    maps = torch.tensor([[[0.25000001, 0.25000001, 0.25000001, 0.25000001, 1.0]]], dtype=torch.float64)
    ratio = float(maps.std(correction=0) / maps.mean())
    assert 1 / ratio == pytest.approx(largest_scale(0.25), rel=1e-6)
    nearly = flatten_peaks(maps, scale=1.333, threshold=0.25)
    assert math.isfinite(float(nearly.min())) and nearly.min() > 0.999 and nearly.max() == 1


@pytest.mark.parametrize("scale", [-0.1, 0.48])
def test_scales_that_could_turn_a_map_over(scale: float) -> None:
    with pytest.raises(ValueError, match=r"with threshold 0.05; allowed: 0 or more, below 0.4708"):
        flatten_peaks(torch.rand(1, 3, 5), scale=scale, threshold=0.05)


def test_thresholds_that_are_no_share() -> None:
    with pytest.raises(ValueError, match=r"threshold is 1\.0; allowed: above 0 and below 1"):
        flatten_peaks(torch.rand(1, 3, 5), scale=0.1, threshold=1.0)
