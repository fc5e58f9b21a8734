"""Boundary IoU: the overlap of the two outlines; plain IoU is dominated by the interiors of large objects.

Shape letters: C classes with background, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from wsss.ops.confusion import require_labels

Pick = Callable[[Tensor, Tensor], Tensor]
_BYTE, _WORD = 255, 2**31 - 1
"""All bits of a byte, and of the type for more classes: above all class ids."""


def band_width(size: tuple[int, int], *, width: float) -> int:
    """d, the width of the bands in pixels: `width` times the image's diagonal, rounded, at least 1."""
    return max(1, round(width * math.hypot(*size)))


def boundary_counts(
    truth_HW: Tensor, prediction_HW: Tensor, *, num_classes: int, ignore_index: int, width: float
) -> Tensor:
    """Pixels of the bands of every class of one image: in both bands, and in either; int64 [C,2], summable.

    The band of class c in a map is the part removed from c by erosion: its pixels from which a square of (2d+1) x
    (2d+1) pixels around them (`band_width`; Chebyshev distance) reaches another class or the outside of the image. The
    score of a class is (pixels in its band of the truth and in its band of the prediction) / (pixels in either).

    Pixels whose truth is `ignore_index` are neutral in both maps: they are in no band and create no border. So the
    prediction there has no effect, and a prediction that is correct everywhere else scores 1. If the ignored strip
    around an object is wider than d there is no band; otherwise every prediction would match the strip's outline.

    Shapes: two label maps of the same shape, any integer dtype; `num_classes` counts the background.
    One minimum and one maximum over the square per map find the bands of all classes at once: a pixel is in its class's
    band if they differ. So the cost does not grow with the number of classes.

    Raises: ValueError for different shapes, labels outside 0..C-1 that are not ignored, `width` outside (0, 1].

    Source: Cheng et al., CVPR 2021, Boundary IoU; width = 0.02, the square, and counting the image's edge as a
    border are as published.  Differs: label maps of classes instead of instance masks; ignored pixels, which the paper
    does not mention.
    """
    if truth_HW.shape != prediction_HW.shape:
        raise ValueError(
            f"truth is {list(truth_HW.shape)}, prediction {list(prediction_HW.shape)}; "
            "resize the prediction to the truth, which is never resized"
        )
    if not 0 < width <= 1:
        raise ValueError(f"width is {width}; allowed: above 0, at most 1, as a fraction of the image's diagonal")
    ignored_HW = truth_HW == ignore_index
    truth_HW, prediction_HW = truth_HW * ~ignored_HW, prediction_HW * ~ignored_HW
    require_labels(truth_HW, num_classes=num_classes, name="truth")
    require_labels(prediction_HW, num_classes=num_classes, name="prediction")
    # Products and bit operations on bytes: several times faster than filling or selecting pixels by a mask.
    dtype, nothing = (torch.uint8, _BYTE) if num_classes <= _BYTE else (torch.int32, _WORD)
    hidden_HW = ignored_HW.to(dtype).mul_(nothing)
    distance = band_width((truth_HW.shape[0], truth_HW.shape[1]), width=width)
    true_HW, predicted_HW = (
        bands(labels_HW.to(dtype), hidden_HW=hidden_HW, distance=distance) for labels_HW in (truth_HW, prediction_HW)
    )
    both_HW = true_HW | (true_HW != predicted_HW).to(dtype).mul_(nothing)
    counted: tuple[Tensor, ...] = (both_HW, true_HW, predicted_HW)
    if dtype != torch.uint8:
        counted = tuple(labels_HW.clamp(max=num_classes) for labels_HW in counted)
    both_C, true_C, predicted_C = (
        torch.bincount(labels_HW.flatten(), minlength=num_classes + 1)[:num_classes] for labels_HW in counted
    )
    return torch.stack([both_C, true_C + predicted_C - both_C], dim=1)


def boundary_iou(counts_C2: Tensor) -> Tensor:
    """Boundary IoU per class from `boundary_counts`, summed over images; float64 [C], NaN without a band."""
    both_C, either_C = counts_C2.to(torch.float64).unbind(dim=1)
    return torch.where(either_C > 0, both_C / either_C, torch.nan)


def bands(labels_HW: Tensor, *, hidden_HW: Tensor, distance: int) -> Tensor:
    """Labels of the pixels within `distance` of a pixel with another label, or of the outside; elsewhere the largest
    value of the type, u8 or i32 [H,W], which is no label.

    `hidden_HW`, that value or 0: pixels that are in no band and create no border.
    """
    nothing = torch.iinfo(labels_HW.dtype).max
    most_HW = _over_square(labels_HW & ~hidden_HW, pick=torch.maximum, neutral=0, distance=distance)
    least_HW = _over_square(labels_HW | hidden_HW, pick=torch.minimum, neutral=nothing, distance=distance)
    inside_HW = (most_HW == least_HW).to(labels_HW.dtype).mul_(nothing)
    for edge in (inside_HW[:distance], inside_HW[-distance:], inside_HW[:, :distance], inside_HW[:, -distance:]):
        edge.fill_(0)
    return labels_HW | inside_HW | hidden_HW


def _over_square(values_HW: Tensor, *, pick: Pick, neutral: int, distance: int) -> Tensor:
    """The largest (or smallest, as `pick` does) value within `distance` in both directions; `neutral` never wins.

    Runs of 1, 2, 4, ... pixels are each computed from two of half the length, so a window takes log2 of its length
    passes; the last one joins two runs that overlap.
    """
    paddings = ((0, 0, distance, distance), (distance, distance))  # of functional.pad, which begins at the last one
    for dim, size in enumerate(values_HW.shape):
        run_HW = functional.pad(values_HW, paddings[dim], value=neutral)
        length, window = 1, 2 * distance + 1
        while 2 * length <= window:
            kept = run_HW.shape[dim] - length
            run_HW, length = pick(run_HW.narrow(dim, 0, kept), run_HW.narrow(dim, length, kept)), 2 * length
        values_HW = pick(run_HW.narrow(dim, 0, size), run_HW.narrow(dim, window - length, size))
    return values_HW
