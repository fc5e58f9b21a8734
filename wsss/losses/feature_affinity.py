"""AffinityNet's loss: high affinity for equal labels, low affinity for different ones.

Shape letters: B batch, P pixel pairs per source, u v rows and columns of the interior sources.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wsss.losses.affinity_displacement import BACKGROUND, DIFFERENT, FOREGROUND, LOG_FLOOR
from wsss.losses.masked_mean import MaskedSum


class FeatureAffinitySums(NamedTuple):
    """The three terms of AffinityNet's objective, added over all ranks before they are divided; counts in pairs."""

    bg_pos: MaskedSum
    """-log affinity over pairs of background."""
    fg_pos: MaskedSum
    """-log affinity over pairs of one foreground class."""
    neg: MaskedSum
    """-log (1 - affinity) over pairs of different labels."""


def feature_affinity_sums(affinity_PBuv: Tensor, *, kind_PBuv: Tensor) -> FeatureAffinitySums:
    """Sums and counts of AffinityNet's three terms.

    bg_pos, fg_pos: -log(W + e);  neg: -log(1 + e - W);  e = 1e-5

    affinity [P, B, u, v] float in [0, 1] (`interior_feature_affinity`); kinds int8 of the same shape (`pair_kinds`).
    Numerators are scalars with a gradient; counts are int64 scalars.
    Source: Ahn and Kwak, CVPR 2018 (AffinityNet), eq. 3 to 5, and its public code. Differs: as published.
    """
    attract, repel = -torch.log(affinity_PBuv + LOG_FLOOR), -torch.log(1 + LOG_FLOOR - affinity_PBuv)

    def term(cost: Tensor, kind: int) -> MaskedSum:
        chosen = kind_PBuv == kind
        return MaskedSum((cost * chosen).sum(), chosen.sum())

    return FeatureAffinitySums(term(attract, BACKGROUND), term(attract, FOREGROUND), term(repel, DIFFERENT))
