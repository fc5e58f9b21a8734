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
_SCORED = 1e-5

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
    ids = _mask_ids(cam_KHW, classes)
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


def foreground_seeds(
    cam_KHW: Tensor, *, classes: Sequence[int], foreground_threshold: float, refine: Refine | None
) -> Tensor:
    """The foreground of `two_threshold_seeds` alone: the class of f where f is foreground, 255 for the rest.

        f = refine(argmax(t_f, cam_1, ..., cam_K))

    Shapes and ids as there; `refine` takes [1,H,W]. Returns uint8 [H,W]. Where maps are divided by their own maximum,
    t_f = 0.2 is SEC's and DSRG's rule "above 20 % of its maximum".

    Raises: ValueError where maps and classes do not fit.
    Source: Huang et al., CVPR 2018 (DSRG), section 3.3, after Kolesnikov and Lampert, ECCV 2016 (SEC).  Differs: of
    several classes above the threshold the one of the highest map wins, where SEC takes the one of the smallest area.
    """
    ids = _mask_ids(cam_KHW, classes)
    if not classes:
        return torch.full(cam_KHW.shape[1:], IGNORE, dtype=torch.uint8, device=cam_KHW.device)
    index_1HW = _argmax_above(cam_KHW, threshold=foreground_threshold)[None]
    label_HW = ids[(index_1HW if refine is None else refine(index_1HW))[0]]
    return torch.where(label_HW == BACKGROUND, IGNORE, label_HW).to(torch.uint8)


def add_salient_background(foreground_HW: Tensor, *, saliency_HW: Tensor, threshold: float) -> Tensor:
    """Make background of pixels that are no foreground seed and not salient.

        label = foreground where it is a class;  0 where it is 255 and saliency / 255 < threshold;  255 elsewhere

    `foreground_HW` and `saliency_HW` are uint8 [H,W]; `threshold` is in [0,1]. Saliency is divided by 255, its scale,
    and not by its own maximum: an image in which nothing is salient is background, not noise stretched to objects.
    Returns uint8 [H,W].

    Raises: ValueError for different shapes.
    Source: Huang et al., CVPR 2018 (DSRG), section 3.3, with the threshold 0.06.  Differs: as published.
    """
    if foreground_HW.shape != saliency_HW.shape:
        raise ValueError(
            f"foreground is {list(foreground_HW.shape)}, saliency {list(saliency_HW.shape)}; give both [H,W]"
        )
    background_HW = (foreground_HW == IGNORE) & (saliency_HW.float() < 255 * threshold)
    return torch.where(background_HW, BACKGROUND, foreground_HW).to(torch.uint8)


def exponent_scores(cam_KHW: Tensor, *, exponent: float) -> Tensor:
    """The maps with a score of the background in front: (1 - max_k cam_k)^exponent.

    float [K,H,W] in [0,1] to [K+1,H,W]. A small exponent makes much background, a large one little.

    Source: Ahn and Kwak, CVPR 2018 (AffinityNet), eq. 1.  Differs: as published.
    """
    foreground_HW = cam_KHW.amax(0) if len(cam_KHW) else cam_KHW.new_zeros(cam_KHW.shape[1:])
    return torch.cat([(1 - foreground_HW).pow(exponent)[None], cam_KHW])


def exponent_seeds(much_LHW: Tensor, *, little_LHW: Tensor, classes: Sequence[int]) -> Tensor:
    """Label what is foreground beside much background, and what is background beside little; 255 for the rest.

    Both are scores [K+1,H,W] (`exponent_scores`, maybe refined), `classes` the K mask ids (1..254). Pixels where all
    scores are below 1e-5, as in padding, are 255. Returns uint8 [H,W]; without classes everything scored is background.

    Raises: ValueError where shapes and classes do not fit.
    Source: Ahn and Kwak, CVPR 2018 (AffinityNet), section 4.1, and its public code.  Differs: an image without classes
    is allowed.
    """
    if much_LHW.shape != little_LHW.shape or len(much_LHW) != len(classes) + 1:
        raise ValueError(
            f"scores are {list(much_LHW.shape)} and {list(little_LHW.shape)}, with {len(classes)} classes; give both "
            "[K+1,H,W], the background first"
        )
    label_HW = exponent_foreground(much_LHW, classes=classes)
    label_HW[little_LHW.argmax(0) == 0] = BACKGROUND
    label_HW[(much_LHW < _SCORED).all(0)] = IGNORE
    return label_HW


def exponent_foreground(much_LHW: Tensor, *, classes: Sequence[int]) -> Tensor:
    """The foreground of `exponent_seeds` alone: the class that wins beside much background, 255 for the rest.

    Scores [K+1,H,W], `classes` the K mask ids (1..254). Returns uint8 [H,W].
    """
    ids = torch.tensor([IGNORE, *classes], dtype=torch.uint8, device=much_LHW.device)
    return ids[much_LHW.argmax(0)]


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


def _mask_ids(cam_KHW: Tensor, classes: Sequence[int]) -> Tensor:
    """int64 [K+1]: the mask id of every index, the background's first. Raises ValueError where shapes do not fit."""
    if cam_KHW.ndim != 3 or len(cam_KHW) != len(classes) or not all(0 < c < IGNORE for c in classes):
        raise ValueError(
            f"CAMs have shape {tuple(cam_KHW.shape)} and classes are {list(classes)}; "
            "give [K,H,W] and K mask ids, each 1..254"
        )
    return torch.tensor([BACKGROUND, *classes], dtype=torch.int64, device=cam_KHW.device)


def _argmax_above(cam_KHW: Tensor, *, threshold: float) -> Tensor:
    """Index of the strongest class, counted from 1; 0 where none exceeds the threshold."""
    plane_1HW = torch.full_like(cam_KHW[:1], threshold)
    return torch.cat([plane_1HW, cam_KHW]).argmax(0)
