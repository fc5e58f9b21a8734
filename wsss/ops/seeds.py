"""Seeds: from class activation maps to a partial label map.

Shapes: K classes present, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf, unary_from_labels

BACKGROUND = 0
IGNORE = 255

Refine = Callable[[Tensor], Tensor]
"""Index maps [B,H,W] of values 0..K in, refined index maps [B,H,W] out."""


def two_threshold_seeds(
    cam_KHW: Tensor,
    *,
    classes: Sequence[int],
    foreground_threshold: float,
    background_threshold: float,
    refine: Refine | None,
) -> Tensor:
    """Label what is surely foreground and what is surely background, and leave the rest to 255.

        f = refine(argmax(t_f, cam_1, ..., cam_K)),   b = refine(argmax(t_b, cam_1, ..., cam_K)),   t_f > t_b
        label = class of f where f is foreground; 0 where both are background; 255 where only f is background

    `cam_KHW` is float [K,H,W] in [0,1]; `classes` are its K mask ids (1..254); `refine` takes both index maps at once,
    int64 [2,H,W] with 0 for background and k for the k-th class (`crf_refinement` makes one; None leaves them as they
    are). Returns uint8 [H,W]. Without classes (K = 0) everything is background.

    Raises ValueError unless foreground_threshold > background_threshold: the other way round no pixel stays undecided.

    Source: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR
    2019, section 4.1, as in irn's step/cam_to_ir_label.py. Differs: an image without classes is allowed.
    """
    if not foreground_threshold > background_threshold:
        raise ValueError(
            f"foreground_threshold = {foreground_threshold} is not above "
            f"background_threshold = {background_threshold}; what lies between them stays undecided, "
            "so foreground_threshold must be the larger one"
        )
    ids = torch.tensor([BACKGROUND, *classes], dtype=torch.int64, device=cam_KHW.device)
    if cam_KHW.ndim != 3 or len(cam_KHW) != len(classes) or not all(0 < c < IGNORE for c in classes):
        raise ValueError(
            f"CAMs have shape {tuple(cam_KHW.shape)} and classes are {list(classes)}; "
            "give [K,H,W] and K mask ids, each 1..254"
        )
    if not classes:
        return torch.zeros(cam_KHW.shape[1:], dtype=torch.uint8, device=cam_KHW.device)
    index_2HW = torch.stack(
        [_argmax_above(cam_KHW, threshold=threshold) for threshold in (foreground_threshold, background_threshold)]
    )
    if refine is not None:
        index_2HW = refine(index_2HW)
    foreground_HW, background_HW = ids[index_2HW]
    label_HW = torch.where(foreground_HW == BACKGROUND, IGNORE, foreground_HW)
    label_HW[(foreground_HW == BACKGROUND) & (background_HW == BACKGROUND)] = BACKGROUND
    return label_HW.to(torch.uint8)


def crf_refinement(
    image_HW3: Tensor,
    *,
    num_labels: int,
    gt_prob: float,
    num_iterations: int,
    gaussian: GaussianKernel,
    bilateral: BilateralKernel,
) -> Refine:
    """Return a function that refines index maps [B,H,W] of one image by the dense CRF, all B in one pass.

    `num_labels` counts the background: K + 1. See `dense_crf` and `unary_from_labels` for the rest.
    Source: irn's misc/imutils.py, `crf_inference_label`. Differs: as published.
    """

    def refine(index_BHW: Tensor) -> Tensor:
        unary_BKHW = torch.stack([unary_from_labels(i, num_labels=num_labels, gt_prob=gt_prob) for i in index_BHW])
        return dense_crf(
            unary_BKHW,
            image_HW3=image_HW3,
            num_iterations=num_iterations,
            gaussian=gaussian,
            bilateral=bilateral,
        ).argmax(1)

    return refine


def _argmax_above(cam_KHW: Tensor, *, threshold: float) -> Tensor:
    """Index of the strongest class, counted from 1; 0 where none exceeds the threshold."""
    plane_1HW = torch.full_like(cam_KHW[:1], threshold)
    return torch.cat([plane_1HW, cam_KHW]).argmax(0)
