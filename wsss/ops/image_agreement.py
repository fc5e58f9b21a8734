"""How far the label maps of one image agree: one number, by which images are ranked.

Shape letters: M maps, C classes with background, H W pixels, P pixels that count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wsss.ops.confusion import class_iou


def image_agreement(masks_MHW: Tensor, *, ignore_index: int) -> float:
    """Mean IoU of the first label map with each of the others, averaged over these; in [0, 1].

        s = 1 / (M - 1) sum_(m = 2..M) mIoU(y_1, y_m)
        mIoU(y, z) = mean of |y = c and z = c| / |y = c or z = c| over the classes c that y or z has

    The background is a class like any other. Of two maps, pixels that either leaves undecided (`ignore_index`) do not
    count; without a pixel that counts their mean IoU is 0.

    masks u8 or i32 [M,H,W], M >= 2.

    Raises: ValueError for fewer maps or other dimensions.
    Source: Yang et al., CVPR 2022 (ST++), the stability of an image's pseudo label: the maps are predictions of
    checkpoints of one training, the first one here is that of the last checkpoint.
    Differs: the paper adds over the maps, which ranks images in the same order; its predictions have no undecided
    pixels.
    """
    if masks_MHW.ndim != 3 or len(masks_MHW) < 2:
        raise ValueError(f"masks are {list(masks_MHW.shape)}; give [M,H,W] with M >= 2")
    first_HW, *others = masks_MHW
    return math.fsum(_mean_iou(first_HW, other_HW, ignore_index) for other_HW in others) / len(others)


def _mean_iou(first_HW: Tensor, second_HW: Tensor, ignore_index: int) -> float:
    counted_HW = (first_HW != ignore_index) & (second_HW != ignore_index)
    first_P, second_P = first_HW[counted_HW].long(), second_HW[counted_HW].long()
    if not len(first_P):
        return 0.0
    num_classes = 1 + int(torch.maximum(first_P.max(), second_P.max()))
    iou_C = class_iou(
        torch.bincount(first_P[first_P == second_P], minlength=num_classes),
        in_truth=torch.bincount(first_P, minlength=num_classes),
        in_prediction=torch.bincount(second_P, minlength=num_classes),
    )
    present = iou_C[~iou_C.isnan()].tolist()
    return math.fsum(present) / len(present)
