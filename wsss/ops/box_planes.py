"""Boxes as planes: one per class, for the box encoder and for EM-fixed.

Shape letters: C classes with the background first, K classes with boxes, h w strided pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def box_planes(framed_Khw: Tensor, *, classes: Sequence[int], num_classes: int) -> Tensor:
    """bool [C,h,w]: true where each class may be; for the background, outside all boxes.

    `framed_Khw`, bool [K,h,w], is true inside the boxes of the class with the same index in `classes` (distinct ids
    1..C-1).

    Raises: ValueError if the numbers of planes and classes differ, or an id is out of range.
    Source: Ibrahim et al., CVPR 2020 (self-correcting networks): the binary tensor of C + 1 channels.
    Differs: the sources give the number of channels; that the background's is the outside of all boxes is our choice.
    """
    if framed_Khw.ndim != 3 or len(framed_Khw) != len(classes) or not all(0 < c < num_classes for c in classes):
        raise ValueError(
            f"planes are {list(framed_Khw.shape)} for classes {list(classes)} of {num_classes}; "
            "give [K,h,w] and K ids from 1 to num_classes - 1"
        )
    planes_Chw = torch.zeros((num_classes, *framed_Khw.shape[1:]), dtype=torch.bool, device=framed_Khw.device)
    planes_Chw[list(classes)] = framed_Khw
    planes_Chw[0] = ~framed_Khw.any(0)
    return planes_Chw
