"""DSRG's objective: balanced cross entropy on seeds, and the divergence from the dense CRF refinement.

Shape letters: B batch, C classes with the background first, h w strided pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wsss.losses.masked_mean import MaskedSum

PROBABILITY_FLOOR = 1e-4
"""Added to every probability (softmax), or its minimum (CRF)."""
RATIO_LIMITS = 0.05, 20.0
"""The ratio of refined to predicted probability is clipped to these; outside it has no gradient."""


class BalancedSeedSums(NamedTuple):
    """The two terms of the balanced seed loss, added over all ranks before they are divided; counts in images."""

    background: MaskedSum
    """-log p, averaged over the background seeds of each image."""
    foreground: MaskedSum
    """-log p, averaged over the foreground seeds of each image."""


def smoothed_softmax(logits_BChw: Tensor) -> Tensor:
    """(softmax + e) / (1 + C e), e = 1e-4: probabilities whose logarithm is bounded.

    float [B,C,h,w] to the same shape, at least about e, adding up to 1 over C.
    Source: public code of Huang et al., CVPR 2018 (DSRG).  Differs: as published.
    """
    probs_BChw = logits_BChw.softmax(1) + PROBABILITY_FLOOR
    return probs_BChw / probs_BChw.sum(1, keepdim=True)


def floored_probabilities(probs_BChw: Tensor) -> Tensor:
    """max(q, 1e-4), renormalised to sum to 1: applied to the dense CRF's result.

    float [B,C,h,w] in [0,1] to the same shape.
    Source: public code of Huang et al., CVPR 2018 (DSRG).  Differs: as published.
    """
    probs_BChw = probs_BChw.clamp(min=PROBABILITY_FLOOR)
    return probs_BChw / probs_BChw.sum(1, keepdim=True)


def balanced_seed_sums(probs_BChw: Tensor, *, seeds_BChw: Tensor) -> BalancedSeedSums:
    """Sums over images of the mean cost of a seed, for background and foreground; the loss is the sum of both means.

        loss = mean_b( -sum_{u in S_b,0} log p_0(u) / max(|S_b,0|, 1) )  +  the same over all S_b,c with c > 0

    There are many background seeds; with separate terms, they weigh as much as all others together. An image without
    seeds of one side adds 0 to that term and still counts in its mean.

    probabilities float [B,C,h,w] above 0 (`smoothed_softmax`), seeds bool or 0/1 [B,C,h,w], no gradient. Numerators are
    scalars with a gradient; counts are int64 scalars, B each.

    Raises: ValueError if the shapes differ.
    Source: Huang et al., CVPR 2018 (DSRG), balanced seeding loss, and its public code.  Differs: as published (that
    code divides by max(|S|, 1e-4), which is the same for whole numbers).
    """
    _require_same_shape(probs_BChw, seeds_BChw, "seeds")
    seeds_BChw = seeds_BChw.to(probs_BChw.dtype)
    cost_BC = -(seeds_BChw * probs_BChw.log()).sum((2, 3))
    count_BC = seeds_BChw.sum((2, 3))
    images = torch.tensor(len(probs_BChw), device=probs_BChw.device)

    def term(classes: slice) -> MaskedSum:
        mean_B = cost_BC[:, classes].sum(1) / count_BC[:, classes].sum(1).clamp(min=1)
        return MaskedSum(mean_B.sum(), images)

    return BalancedSeedSums(background=term(slice(0, 1)), foreground=term(slice(1, None)))


def boundary_sum(probs_BChw: Tensor, *, refined_BChw: Tensor) -> MaskedSum:
    """Sum over pixels of the divergence of the predicted from the refined probabilities; the mean is the loss.

        loss = mean_{b,u} sum_c q_c(u) log clip(q_c(u) / p_c(u), 0.05, 20)

    p are the probabilities, above 0 (`smoothed_softmax`), q the refined ones (`floored_probabilities` of a dense CRF's
    result), both float [B,C,h,w]. No gradient passes where the ratio is outside the limits. If q requires a
    gradient, it gets one: detach it to keep the target constant. Numerator scalar, count int64 scalar, B h w.

    Raises: ValueError if the shapes differ.
    Source: Kolesnikov and Lampert, ECCV 2016 (SEC), constrain-to-boundary loss, as in the public code of DSRG.
    Differs: that code also sends (1 - q) times q's gradient through its CRF; here the caller decides whether q gets a
    gradient.
    """
    _require_same_shape(probs_BChw, refined_BChw, "refined probabilities")
    total = (refined_BChw * (refined_BChw / probs_BChw).clamp(*RATIO_LIMITS).log()).sum()
    pixels = probs_BChw.numel() // max(probs_BChw.shape[1], 1)
    return MaskedSum(total, torch.tensor(pixels, device=probs_BChw.device))


def _require_same_shape(probs_BChw: Tensor, other_BChw: Tensor, name: str) -> None:
    if probs_BChw.ndim != 4 or probs_BChw.shape != other_BChw.shape:
        raise ValueError(
            f"probabilities are {list(probs_BChw.shape)} and {name} {list(other_BChw.shape)}; give [B,C,h,w] twice, "
            "the background first"
        )
