"""Losses of a multi-label classifier, as two terms per (image, class): for a present class, and for an absent one.

This form allows labels between 0 and 1, from label smoothing and mixed images: loss = t L+ + (1 - t) L-.

Shape letters: B batch, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Literal["bce", "soft_margin", "focal", "asymmetric"]


def bce_terms(logits_BC: Tensor) -> tuple[Tensor, Tensor]:
    """L+ = -log p, L- = -log(1 - p) with p = sigmoid(logit), each f32[B,C]."""
    return F.softplus(-logits_BC), F.softplus(logits_BC)


def focal_terms(logits_BC: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    """L+ = -(1 - p)^gamma log p, L- = -p^gamma log(1 - p), each f32[B,C].

    Source: Lin et al., ICCV 2017, eq. 4.  Differs: without its alpha, one term for each class.
    """
    positive, negative = bce_terms(logits_BC)
    # (1 - p)^gamma = exp(-gamma * -log(1 - p)): a power of a difference has no finite gradient if it rounds to 0.
    return positive * torch.exp(-gamma * negative), negative * torch.exp(-gamma * positive)


def asymmetric_terms(logits_BC: Tensor, *, gammas: tuple[float, float], margin: float) -> tuple[Tensor, Tensor]:
    """L+ = -(1 - p)^g log p, L- = -q^h log(1 - q) with q = max(p - margin, 0), (g, h) = `gammas`; each f32[B,C].

    Classes with p below the margin (confidently absent) cost nothing: most classes of most images.

    Source: Ridnik et al., ICCV 2021 (asymmetric loss), eq. 7.  Differs: the gradient goes through the focal factors too
    (the authors' code can stop it there).
    """
    positive, _ = focal_terms(logits_BC, gamma=gammas[0])
    if margin == 0:
        return positive, focal_terms(logits_BC, gamma=gammas[1])[1]
    probability = torch.sigmoid(logits_BC)
    # Avoid the power of 0, whose gradient may be infinite.
    shifted = torch.where(probability > margin, probability - margin, 0.5)
    negative = -torch.log1p(-shifted) * shifted.pow(gammas[1])
    return positive, torch.where(probability > margin, negative, 0.0)


def combine_terms(
    terms: tuple[Tensor, Tensor], *, target_BC: Tensor, smoothing: float, positive_weight_C: Tensor | None
) -> Tensor:
    """t w L+ + (1 - t) L- with t = target (1 - smoothing) + smoothing / 2; f32[B,C], at least 0.

    `target_BC` in [0, 1], `smoothing` in [0, 1), `positive_weight_C` > 0 or None for 1.

    Source of the smoothing: Szegedy et al., CVPR 2016, section 7, for two outcomes per class.
    """
    soft_BC = target_BC * (1 - smoothing) + smoothing / 2
    positive, negative = terms
    if positive_weight_C is not None:
        positive = positive * positive_weight_C
    return soft_BC * positive + (1 - soft_BC) * negative
