"""Response scaling: how much the label of a pixel varies if the responses of a class become wider or narrower.

Shape letters: L labels with the background, S scales, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Decide = Callable[[Tensor], Tensor]
"""Shares of the labels f32 [S,L,H,W] of one image in, the index of each pixel's label, int64 [S,H,W], out."""


def response_uncertainty(share_LHW: Tensor, *, scales: Sequence[float], decide: Decide) -> Tensor:
    """How often the decision for or against a label changes with the scale of its responses; f32 [H,W] in [0,1].

        y_cn = decide(p_1, ..., p_c^n, ..., p_L)                    for each label c and scale n
        u = max_c Var_n[y_cn = c] / v,   v = floor(S / 2) ceil(S / 2) / S^2

    A scale n < 1 makes the responses of c wider, n > 1 narrower; the other labels keep theirs. The variance is that of
    S values 0 or 1, q (1 - q) with the share q of ones, and v is the largest that it can be: u = 0 where no scale
    changes any decision, u = 1 where half of the scales decide otherwise than the rest.

    `share_LHW` is f32 [L,H,W] in [0,1]. `decide` is called once for each label, with all scales at once: the dense CRF
    of the image, or the argmax.

    Raises: ValueError for another number of dimensions, fewer than two scales, and scales that are not above 0.
    Source: Li et al., AAAI 2022 (URN), uncertainty via response scaling; its public code raises the predicted
    probability of a class to six scales, 0.15 to 6, runs the dense CRF for each, and takes the maximum over classes.
    Differs: there the result is stretched to the range 0 to 1 in every image; here it is divided by the same number
    in all images, so that they can be compared. There only labels that the prediction contains are scaled; here all L.
    """
    if share_LHW.ndim != 3 or len(scales) < 2 or min(scales) <= 0:
        raise ValueError(
            f"shares are {list(share_LHW.shape)} and scales {list(scales)}; give shares [L,H,W] and two or more scales "
            "above 0"
        )
    num_scales = len(scales)
    exponents_S11 = torch.tensor(scales, dtype=share_LHW.dtype, device=share_LHW.device)[:, None, None]
    largest_HW = torch.zeros(share_LHW.shape[1:], dtype=torch.int64, device=share_LHW.device)
    for label in range(len(share_LHW)):
        share_SLHW = share_LHW.repeat(num_scales, 1, 1, 1)
        share_SLHW[:, label] = share_LHW[label] ** exponents_S11
        ones_HW = (decide(share_SLHW) == label).sum(0)
        largest_HW = torch.maximum(largest_HW, ones_HW * (num_scales - ones_HW))  # S^2 times the variance
    return largest_HW.float() / ((num_scales // 2) * ((num_scales + 1) // 2))
