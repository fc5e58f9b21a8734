"""Maps with high peaks made flatter.

Shape letters: K classes, h w pixels.
"""

from __future__ import annotations

import math

from torch import Tensor


def flatten_peaks(maps_Khw: Tensor, *, scale: float, threshold: float) -> Tensor:
    """M_k^(1 - scale v_k), v_k = std / mean of the values of M_k above `threshold`; 0 where there is none.

    Shapes: [K,h,w] in [0, 1], in and out, K = 0 allowed. The more a map's values vary, the more the low ones are
    raised. Order within a map is kept, and so are 0 and 1; std is that of the whole population.

    Raises: ValueError unless 0 <= scale < `largest_scale(threshold)`, which keeps the exponent positive.

    Source: code of Li et al., ICCV 2021 (PMM), `refine_cam`, with scale 0.3 and threshold 0.05.  Differs: its code also
    sets values below the threshold to 0, here they are kept for the rule that makes labels.
    """
    if not 0 <= scale < largest_scale(threshold):
        raise ValueError(
            f"scale is {scale} with threshold {threshold}; allowed: 0 or more, below {largest_scale(threshold):.4g}, "
            "so that no exponent is negative; give a smaller scale or a higher threshold"
        )
    above = (maps_Khw > threshold).to(maps_Khw.dtype)
    number = above.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
    mean = (maps_Khw * above).sum(dim=(-2, -1), keepdim=True) / number
    variance = ((maps_Khw - mean).square() * above).sum(dim=(-2, -1), keepdim=True) / number
    return maps_Khw.pow(1 - scale * variance.sqrt() / mean.clamp_min(threshold))


def largest_scale(threshold: float) -> float:
    """2 sqrt(t) / (1 - t): the std of values in [t, 1] is at most its inverse times their mean (Bhatia and Davis 2000).

    Raises: ValueError for a threshold outside (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; allowed: above 0 and below 1")
    return 2 * math.sqrt(threshold) / (1 - threshold)
