"""SEC's objective: cross entropy on seeds, and expansion of the classes by their image-level labels.

Its third part, constrain-to-boundary, is `boundary_sum` of `wsss.losses.dsrg`, which DSRG took from SEC.

Shape letters: B batch, C classes with the background first, h w strided pixels, N = h w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wsss.losses.masked_mean import MaskedSum

ABSENT_DECAY = 0.0
"""Decay of the pooling for absent classes: with 0 it is the maximum."""


class ExpandSums(NamedTuple):
    """The three terms of the expansion loss, added over all ranks before they are divided; counts in images."""

    present: MaskedSum
    """-log of the pooled score, averaged over the classes present of each image that has one."""
    absent: MaskedSum
    """-log(1 - pooled score), averaged over the absent classes of each image that has one."""
    background: MaskedSum
    """-log of the background's pooled score, of each image without unknown classes."""


def seed_sum(probs_BChw: Tensor, *, seeds_BChw: Tensor) -> MaskedSum:
    """Sum over images of the mean cost of a seed, of all classes and the background together; its mean is the loss.

        loss = mean_b( -sum_c sum_{u in S_b,c} log p_c(u) / max(sum_c |S_b,c|, 1) )

    An image without seeds adds 0 and still counts in the mean. Probabilities float [B,C,h,w] above 0
    (`smoothed_softmax`), seeds bool or 0/1 [B,C,h,w], no gradient. Numerator scalar, count int64 scalar, B.

    Raises: ValueError if the shapes differ.
    Source: Kolesnikov and Lampert, ECCV 2016 (SEC), eq. 2.  Differs: an image without seeds is allowed.
    """
    if probs_BChw.ndim != 4 or probs_BChw.shape != seeds_BChw.shape:
        raise ValueError(
            f"probabilities are {list(probs_BChw.shape)} and seeds {list(seeds_BChw.shape)}; give [B,C,h,w] twice, the "
            "background first"
        )
    seeds_BChw = seeds_BChw.to(probs_BChw.dtype)
    cost_B = -(seeds_BChw * probs_BChw.log()).sum((1, 2, 3))
    mean_B = cost_B / seeds_BChw.sum((1, 2, 3)).clamp(min=1)
    return MaskedSum(mean_B.sum(), torch.tensor(len(mean_B), device=mean_B.device))


def global_weighted_rank_pooling(probs_BCN: Tensor, *, decay: float) -> Tensor:
    """The mean of the sorted scores with weights that decrease with the rank; float [B,C,N] to [B,C].

        G = sum_j d^(j-1) p_(j) / sum_j d^(j-1),   p_(1) >= p_(2) >= ... >= p_(N)

    d = 0 is the maximum, d = 1 the mean; 0.996 puts half of the weight on the 173 highest of 41 x 41 scores.

    Raises: ValueError for a decay outside [0, 1], and without pixels.
    Source: Kolesnikov and Lampert, ECCV 2016 (SEC), eq. 3.  Differs: as published.
    """
    if not 0 <= decay <= 1 or not probs_BCN.shape[-1]:
        raise ValueError(
            f"decay is {decay}, of {probs_BCN.shape[-1]} scores; allowed: from 0 to 1, of 1 or more scores"
        )
    rank_N = torch.arange(probs_BCN.shape[-1], device=probs_BCN.device, dtype=probs_BCN.dtype)
    weight_N = torch.tensor(decay, device=probs_BCN.device, dtype=probs_BCN.dtype).pow(rank_N)  # 0 ** 0 is 1
    return probs_BCN.sort(dim=-1, descending=True).values @ (weight_N / weight_N.sum())


def expand_sums(
    probs_BChw: Tensor,
    *,
    present_BC: Tensor,
    absent_BC: Tensor,
    foreground_decay: float,
    background_decay: float,
) -> ExpandSums:
    """Sums over images of the expansion loss; the loss is the sum of the three means.

        loss = mean_b( -1/|T_b| sum_{c in T_b} log G_c(d_fg) )  +  mean_b( -1/|A_b| sum_{c in A_b} log(1 - G_c(0)) )
             + mean_b( -log G_0(d_bg) )

    T_b are the foreground classes present, A_b the absent ones; classes in neither (unknown) have no loss. The
    background is present in every image. Images without a class in T_b (A_b) are left out of the first (second) mean,
    and images with an unknown class, which may cover what would become background, of the third.

    Probabilities float [B,C,h,w] above 0 and below 1 (`smoothed_softmax`), presence and absence bool or 0/1 [B,C];
    their first column is not read. Numerators are scalars with a gradient; counts are int64 scalars.

    Raises: ValueError for shapes that do not fit, and for a class that is both present and absent.
    Source: Kolesnikov and Lampert, ECCV 2016 (SEC), eq. 3 to 5, with d_fg = 0.996 and d_bg = 0.999.
    Differs: images without a class present, and unknown classes, are allowed.
    """
    if not present_BC.shape == absent_BC.shape == probs_BChw.shape[:2] or probs_BChw.ndim != 4:
        raise ValueError(
            f"probabilities are {list(probs_BChw.shape)}, presence {list(present_BC.shape)} and absence "
            f"{list(absent_BC.shape)}; give [B,C,h,w] and [B,C] twice, the background first"
        )
    present_BF, absent_BF = present_BC[:, 1:] > 0, absent_BC[:, 1:] > 0
    if bool((present_BF & absent_BF).any()):
        raise ValueError("a class of an image is both present and absent; a class is one of them, or neither")
    probs_BCN = probs_BChw.flatten(2)
    pooled_BF = global_weighted_rank_pooling(probs_BCN[:, 1:], decay=foreground_decay)
    highest_BF = global_weighted_rank_pooling(probs_BCN[:, 1:], decay=ABSENT_DECAY)
    background_B1 = global_weighted_rank_pooling(probs_BCN[:, :1], decay=background_decay)
    return ExpandSums(
        present=_mean_of_chosen(-pooled_BF.log(), present_BF),
        absent=_mean_of_chosen(-torch.log1p(-highest_BF), absent_BF),
        background=_mean_of_chosen(-background_B1.log(), (present_BF | absent_BF).all(1, keepdim=True)),
    )


def _mean_of_chosen(cost_BF: Tensor, chosen_BF: Tensor) -> MaskedSum:
    """Sum over images of the mean over their chosen classes, and the number of images that have one."""
    number_B = chosen_BF.sum(1)
    mean_B = cost_BF.where(chosen_BF, 0.0).sum(1) / number_B.clamp(min=1)
    return MaskedSum(mean_B.sum(), (number_B > 0).sum())
