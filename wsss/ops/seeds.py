"""Seeds: from class activation maps to a partial label map.

Shapes: K classes present, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf, unary_from_labels

BACKGROUND = 0
IGNORE = 255
"""The default of `ignore_index`: label maps are uint8. With a larger one, for more classes, they are int32."""
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
    ignore_index: int = IGNORE,
) -> Tensor:
    """Label confident foreground and confident background pixels; all others are `ignore_index`.

        f = refine(argmax(t_f, cam_1, ..., cam_K)),   b = refine(argmax(t_b, cam_1, ..., cam_K)),   t_f > t_b
        label = class of f if f is foreground; 0 if both are background; ignored if only f is background

    `cam_KHW` is float [K,H,W] in [0,1]; `classes` are its K mask ids (1..254); `refine` takes both index maps at once,
    int64 [2,H,W] with 0 for background and k for the k-th class (`crf_refinement` makes one; None leaves them
    unchanged). Returns uint8 [H,W] (int32 with an `ignore_index` above 255). Without classes (K = 0) everything is
    background.

    Raises ValueError unless foreground_threshold > background_threshold: otherwise no pixel would be undecided.

    Source: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR
    2019, section 4.1, as in irn's step/cam_to_ir_label.py. Differs: an image without classes is allowed.
    """
    if not foreground_threshold > background_threshold:
        raise ValueError(
            f"foreground_threshold = {foreground_threshold} is not above "
            f"background_threshold = {background_threshold}; scores between them are undecided, "
            "so foreground_threshold must be the larger one"
        )
    ids = _mask_ids(cam_KHW, classes, ignore_index=ignore_index)
    if not classes:
        return torch.zeros(cam_KHW.shape[1:], dtype=label_dtype(ignore_index), device=cam_KHW.device)
    index_2HW = torch.stack(
        [_argmax_above(cam_KHW, threshold=threshold) for threshold in (foreground_threshold, background_threshold)]
    )
    if refine is not None:
        index_2HW = refine(index_2HW)
    foreground_HW, background_HW = ids[index_2HW]
    label_HW = torch.where(foreground_HW == BACKGROUND, ignore_index, foreground_HW)
    label_HW[(foreground_HW == BACKGROUND) & (background_HW == BACKGROUND)] = BACKGROUND
    return label_HW.to(label_dtype(ignore_index))


def label_dtype(ignore_index: int) -> torch.dtype:
    """The type of label maps on the device: uint8, or int32 if ignored pixels are above 255 (torch computes little with
    uint16)."""
    return torch.uint8 if ignore_index <= IGNORE else torch.int32


def foreground_seeds(
    cam_KHW: Tensor,
    *,
    classes: Sequence[int],
    foreground_threshold: float,
    refine: Refine | None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Only the foreground of `two_threshold_seeds`: the class of f if f is foreground, else `ignore_index`.

        f = refine(argmax(t_f, cam_1, ..., cam_K))

    Shapes and ids as for `two_threshold_seeds`; `refine` takes [1,H,W]. If maps are divided by
    their own maximum, t_f = 0.2 is SEC's and DSRG's rule "above 20 % of its maximum".

    Raises: ValueError if maps and classes do not match.
    Source: Huang et al., CVPR 2018 (DSRG), section 3.3, after Kolesnikov and Lampert, ECCV 2016 (SEC).  Differs: of
    several classes above the threshold, the one with the highest score wins; SEC takes the one with the smallest area.
    """
    ids = _mask_ids(cam_KHW, classes, ignore_index=ignore_index)
    if not classes:
        return torch.full(cam_KHW.shape[1:], ignore_index, dtype=label_dtype(ignore_index), device=cam_KHW.device)
    index_1HW = _argmax_above(cam_KHW, threshold=foreground_threshold)[None]
    label_HW = ids[(index_1HW if refine is None else refine(index_1HW))[0]]
    return torch.where(label_HW == BACKGROUND, ignore_index, label_HW).to(label_dtype(ignore_index))


def add_salient_background(
    foreground_HW: Tensor, *, saliency_HW: Tensor, threshold: float, ignore_index: int = IGNORE
) -> Tensor:
    """Label pixels as background that are neither foreground seeds nor salient.

        label = foreground if it is a class;  0 if it is ignored and saliency / 255 < threshold;  else ignored

    `foreground_HW` is a label map [H,W], `saliency_HW` uint8 [H,W]; `threshold` is in [0,1]. Saliency is divided by
    255, its scale, and not by its own maximum: an image without salient regions is background, rather than amplified
    noise. Returns a label map of the same type.

    Raises: ValueError for different shapes.
    Source: Huang et al., CVPR 2018 (DSRG), section 3.3, with the threshold 0.06.  Differs: the paper's saliency is
    normalised, and its public code has finished seeds, not how they are made; here saliency is divided by 255.
    """
    if foreground_HW.shape != saliency_HW.shape:
        raise ValueError(
            f"foreground is {list(foreground_HW.shape)}, saliency {list(saliency_HW.shape)}; give both [H,W]"
        )
    background_HW = (foreground_HW == ignore_index) & (saliency_HW.float() < 255 * threshold)
    return torch.where(background_HW, BACKGROUND, foreground_HW).to(foreground_HW.dtype)


def exponent_scores(cam_KHW: Tensor, *, exponent: float) -> Tensor:
    """The maps, preceded by a background score: (1 - max_k cam_k)^exponent.

    float [K,H,W] in [0,1] to [K+1,H,W]. A small exponent gives much background, a large one little. Maps that rounding
    has raised above 1 give a background of 0.

    Source: Ahn and Kwak, CVPR 2018 (AffinityNet), eq. 1.  Differs: as published.
    """
    foreground_HW = cam_KHW.amax(0) if len(cam_KHW) else cam_KHW.new_zeros(cam_KHW.shape[1:])
    return torch.cat([(1 - foreground_HW).clamp_min(0).pow(exponent)[None], cam_KHW])


def exponent_seeds(
    much_LHW: Tensor, *, little_LHW: Tensor, classes: Sequence[int], ignore_index: int = IGNORE
) -> Tensor:
    """Label pixels that are foreground even with much background, or background even with little; else `ignore_index`.

    Both are scores [K+1,H,W] (`exponent_scores`, maybe refined), `classes` the K mask ids (1..254). Pixels where all
    scores are below 1e-5, as in padding, are ignored. Returns a label map [H,W] as `two_threshold_seeds`; without
    classes all scored pixels are background.

    Raises: ValueError if shapes and classes do not match.
    Source: Ahn and Kwak, CVPR 2018 (AffinityNet), section 4.1, and its public code.  Differs: an image without classes
    is allowed.
    """
    if much_LHW.shape != little_LHW.shape or len(much_LHW) != len(classes) + 1:
        raise ValueError(
            f"scores are {list(much_LHW.shape)} and {list(little_LHW.shape)}, with {len(classes)} classes; give both "
            "[K+1,H,W], the background first"
        )
    label_HW = exponent_foreground(much_LHW, classes=classes, ignore_index=ignore_index)
    label_HW[little_LHW.max(0).indices == 0] = BACKGROUND
    label_HW[(much_LHW < _SCORED).all(0)] = ignore_index
    return label_HW


def pooled_exponent_seeds(
    much_LHW: Tensor, *, little_LHW: Tensor, classes: Sequence[int], stride: int, ignore_index: int = IGNORE
) -> Tensor:
    """`exponent_seeds` on the grid of that stride: scores are averaged over its cells before they are compared.

    Both are float [K+1,H,W], H and W multiples of `stride`, and 0 where there is no score, as in the padding of a crop.
    Returns a label map [H / stride, W / stride].

    Raises: ValueError as `exponent_seeds`, and for another size.
    Source: psa's public code, voc12/data.py and train_aff.py, with stride 8.  Differs: as published.
    """
    height, width = much_LHW.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(f"scores have {height} x {width} pixels; allowed: multiples of the stride {stride}")
    much_Lhw, little_Lhw = (functional.avg_pool2d(scores, stride) for scores in (much_LHW, little_LHW))
    return exponent_seeds(much_Lhw, little_LHW=little_Lhw, classes=classes, ignore_index=ignore_index)


def exponent_foreground(much_LHW: Tensor, *, classes: Sequence[int], ignore_index: int = IGNORE) -> Tensor:
    """Only the foreground of `exponent_seeds`: the class that wins with much background, else `ignore_index`.

    Scores [K+1,H,W], `classes` the K mask ids (1..254). Returns a label map [H,W] as `two_threshold_seeds`.
    """
    ids = torch.tensor([ignore_index, *classes], dtype=label_dtype(ignore_index), device=much_LHW.device)
    return ids[much_LHW.max(0).indices]


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
        return (
            dense_crf(
                unary_BKHW,
                image_HW3=image_HW3,
                num_iterations=num_iterations,
                gaussian=gaussian,
                bilateral=bilateral,
            )
            .max(1)
            .indices
        )

    return refine


def _mask_ids(cam_KHW: Tensor, classes: Sequence[int], *, ignore_index: int) -> Tensor:
    """int64 [K+1]: the mask id of every index, background first. Raises ValueError if shapes do not match."""
    if cam_KHW.ndim != 3 or len(cam_KHW) != len(classes) or not all(0 < c < ignore_index for c in classes):
        raise ValueError(
            f"CAMs have shape {tuple(cam_KHW.shape)} and classes are {list(classes)}; "
            f"give [K,H,W] and K mask ids, each 1..{ignore_index - 1}"
        )
    return torch.tensor([BACKGROUND, *classes], dtype=torch.int64, device=cam_KHW.device)


def _argmax_above(cam_KHW: Tensor, *, threshold: float) -> Tensor:
    """Index of the strongest class, counted from 1; 0 if none exceeds the threshold."""
    plane_1HW = torch.full_like(cam_KHW[:1], threshold)
    return torch.cat([plane_1HW, cam_KHW]).max(0).indices
