"""Thresholds from a histogram of scores alone: no mask is needed.

A threshold at bin k separates the pixels of bins below k from those of bins from k on. Shape letters: N bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BIN_VARIANCE = 1 / 12
"""Variance of values spread evenly over one bin: the least that a group of pixels can have."""


def otsu_bin(histogram_N: Tensor) -> Tensor:
    """The bin that separates two groups with the largest variance between them, int64 [...], for counts [...,N].

    Of equal ones the lowest. 0, so that no pixel is below, if all pixels are in one bin or there are none.

    Source: Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms", equations 12 to 18.
    """
    below, above = _groups(histogram_N)
    share = below["share"] * above["share"]
    between = share * (above["mean"] - below["mean"]) ** 2
    return _best(between, valid=share > 0)


def minimum_error_bin(histogram_N: Tensor) -> Tensor:
    """The bin at which a mixture of two normal distributions, one on either side, fits best, int64 [...].

    The criterion is the likelihood of the mixture whose components are the two groups. Of equal bins the lowest; 0 if
    all pixels are in one bin or there are none.

    Source: Kittler and Illingworth 1986, "Minimum error thresholding", equation 15. Differs: a group has at least the
    variance of one bin, without which a single full bin would be a perfect component.
    """
    below, above = _groups(histogram_N)
    valid = (below["share"] > 0) & (above["share"] > 0)
    cost = torch.zeros_like(below["share"])
    for group in (below, above):
        share = group["share"].clamp_min(1e-12)
        cost = cost + share * (group["variance"].clamp_min(_BIN_VARIANCE).log() - 2 * share.log())
    return _best(-cost, valid=valid)


def _groups(histogram_N: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Share of the pixels, mean and variance in bins of the groups below and from every bin on, [...,N] each."""
    weights_N = histogram_N.to(torch.float64)
    bins_N = torch.arange(histogram_N.shape[-1], dtype=torch.float64, device=histogram_N.device)
    total = weights_N.sum(-1, keepdim=True).clamp_min(1)
    sums = [(weights_N * bins_N**power) / total for power in range(3)]
    whole = [one.sum(-1, keepdim=True) for one in sums]
    under = [one.cumsum(-1) - one for one in sums]
    over = [every - part for every, part in zip(whole, under, strict=True)]
    return _moments(under), _moments(over)


def _moments(sums: list[Tensor]) -> dict[str, Tensor]:
    share = torch.where(sums[0] > 1e-12, sums[0], 0.0)
    mean = sums[1] / sums[0].clamp_min(1e-12)
    return {"share": share, "mean": mean, "variance": (sums[2] / sums[0].clamp_min(1e-12) - mean**2).clamp_min(0)}


def _best(value_N: Tensor, *, valid: Tensor) -> Tensor:
    """The lowest bin with the largest value among the valid ones; 0 if none is valid."""
    value_N = torch.where(valid, value_N, -torch.inf)
    largest = value_N.amax(-1, keepdim=True)
    # Equal up to rounding: bins between two groups without a pixel in between.
    near = valid & (value_N >= largest - 1e-12 * largest.abs().clamp_min(1e-300))
    return torch.where(valid.any(-1), near.to(torch.uint8).argmax(-1), 0)
