"""Label maps of one image from several sources, reduced to what they agree on.

Shape letters: M maps, H W pixels, h w strided pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AgreedLabels(NamedTuple):
    """What several label maps have in common."""

    mask: Tensor
    """[H,W], of the type of the maps."""
    confidence: Tensor
    """u8 [h,w]."""
    num_disputed: int
    """Number of pixels in which the maps differ."""


def agreed_labels(masks_MHW: Tensor, *, confidences_Mhw: Tensor, ignore_index: int) -> AgreedLabels:
    """The common label of M maps in each pixel, and `ignore_index` where they differ; the confidence is the smallest.

        y(x) = y_1(x) if y_1(x) = ... = y_M(x), otherwise ignored;   c(u) = min_m c_m(u)

    So a pixel that one map leaves undecided (`ignore_index`) and another labels becomes undecided; where all are
    undecided they agree, and the pixel is not disputed. The order of the maps does not matter.

    masks u8 or i32 [M,H,W], confidences u8 [M,h,w], M >= 1, on one device.

    Raises: ValueError without a map, and for other numbers or dimensions.
    Source: ours. Networks that were trained in different ways make different errors, and cross entropy has an ignore
    index for pixels without a label; ORANDNet (arXiv 2406.19638) combines the maps of two classifiers by "and".
    Differs: that one combines activation maps before the threshold; here label maps.
    """
    if masks_MHW.ndim != 3 or confidences_Mhw.ndim != 3 or not len(masks_MHW) == len(confidences_Mhw) > 0:
        raise ValueError(
            f"masks are {list(masks_MHW.shape)}, confidences {list(confidences_Mhw.shape)}; give [M,H,W] and [M,h,w] "
            "with M >= 1"
        )
    disputed_HW = (masks_MHW != masks_MHW[:1]).any(0)
    mask_HW = masks_MHW[0].masked_fill(disputed_HW, ignore_index)
    return AgreedLabels(mask_HW, confidences_Mhw.amin(0), int(torch.count_nonzero(disputed_HW)))
