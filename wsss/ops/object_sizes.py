"""The scores of ImageNet-S's evaluator: all objects, and objects by size, by regions and by outlines.

Its conventions, beside the challenge's (`wsss.ops.confusion`, `wsss.ops.boundary_iou`):

- The mean is over all classes and the background; a class in neither truth nor prediction counts as 0.
- The size of a class in an image is its share of the pixels that are not ignored, in percent, rounded up: S up to 5, MS
  up to 25, ML up to 50, L above. Of an image, a size counts the pixels whose truth is the background or a class of that
  size, and the mean is over the classes, and the background, that the truth of these pixels holds.
- A band is 0.03 of the image's diagonal wide, and ignored pixels are a class of their own when bands are drawn, so that
  an object also has an outline towards them. Only pixels that are not ignored are counted.

Shape letters: C classes with background, K of them in the image, H W pixels, G groups of pixels (all, S, MS, ML, L).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wsss.ops.boundary_iou import band_width, bands
from wsss.ops.confusion import class_iou
from wsss.ops.present_classes import present_labels

GROUPS = ("all", "s", "ms", "ml", "l")
"""All pixels, and those of each size."""
PERCENT = (5, 25, 50)
"""Largest share of the image, in percent, of S, MS and ML."""
WIDTH = 0.03
"""Width of the bands as a share of the image's diagonal."""
REGION, BOUNDARY = 0, 1
HITS, TRUTH, PREDICTED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class SizeCounts:
    """The counts of one image."""

    ids: Tensor
    """int64 [K]: the classes counted, ascending, the background first."""
    counts: Tensor
    """int64 [G,K,2,3]: of every group and class, in regions and in bands, the pixels hit, in the truth, predicted."""
    foreground: tuple[int, int, int]
    """Pixels of any class, not the background: in the truth, in the prediction, and in both."""
    largest_is_right: bool
    """Whether the class with most predicted pixels is in the truth; of several, the one with the lowest id."""


def size_counts(truth_HW: Tensor, prediction_HW: Tensor, *, num_classes: int, ignore_index: int) -> SizeCounts:
    """The counts of one image by ImageNet-S's evaluator; `counts` is additive over images, by class id.

    Shapes: two label maps of the same shape, any integer type; `num_classes` counts the background. A prediction may be
    `ignore_index` only where the truth is.

    Raises: ValueError for different shapes, and for labels outside 0..C-1 that are not ignored.

    Source: evaluation/evaluator.py, evaluation/metric.py and data/{data,utils}.py of LUSSeg/ImageNet-S, commit
    b2312ba7; the bands: Cheng et al., CVPR 2021.  Differs: sums are exact, where the evaluator adds in float32.
    """
    if truth_HW.shape != prediction_HW.shape:
        raise ValueError(
            f"truth is {list(truth_HW.shape)}, prediction {list(prediction_HW.shape)}; "
            "resize the prediction to the truth, which is never resized"
        )
    found = present_labels(truth_HW, prediction_HW, num_classes=num_classes, ignore_index=ignore_index)
    truth_HW, prediction_HW = found.maps
    if bool(((prediction_HW == found.ignore_index) & (truth_HW != found.ignore_index)).any()):
        raise ValueError(f"the prediction has {ignore_index} (undecided) where the truth has not; decide every pixel")
    num_present = len(found.ids)  # the label of ignored pixels, which are a class when bands are drawn
    distance = band_width((truth_HW.shape[0], truth_HW.shape[1]), width=WIDTH)
    visible_HW = torch.zeros_like(truth_HW)
    true_band_HW, predicted_band_HW = (
        bands(labels_HW, hidden_HW=visible_HW, distance=distance).clamp(max=num_present + 1) for labels_HW in found.maps
    )
    both_HW = torch.where(true_band_HW == predicted_band_HW, true_band_HW, num_present + 1)
    pairs = [_pairs(truth_HW, x, num_present) for x in (prediction_HW, predicted_band_HW, true_band_HW, both_HW)]
    region_KK, band_KK, true_KK, hit_KK = pairs
    parts = (
        (region_KK.diagonal(), region_KK.sum(dim=1), region_KK),
        (hit_KK.diagonal(), true_KK.diagonal(), band_KK),
    )
    rows_GK = _groups(region_KK.sum(dim=1))
    counts = torch.stack(
        [
            torch.stack([hits_K * rows_GK, truth_K * rows_GK, rows_GK.to(torch.int64) @ predicted_KK], dim=2)
            for hits_K, truth_K, predicted_KK in parts
        ],
        dim=2,
    )
    predicted_K = region_KK.sum(dim=0)
    largest = 1 + int(predicted_K[1:].argmax()) if num_present > 1 else 0
    return SizeCounts(
        ids=found.ids,
        counts=counts,
        foreground=(int(region_KK[1:].sum()), int(predicted_K[1:].sum()), int(region_KK[1:, 1:].sum())),
        largest_is_right=bool(largest and predicted_K[largest] > 0 and region_KK[largest].sum() > 0),
    )


def _pairs(truth_HW: Tensor, other_HW: Tensor, num_present: int) -> Tensor:
    """Pixels by truth and other label, int64 [K,K]; other labels from K on, and ignored pixels, are not counted."""
    size = num_present + 2
    cell_HW = truth_HW.to(torch.int32).mul_(size).add_(other_HW)
    return torch.bincount(cell_HW.flatten(), minlength=size**2).view(size, size)[:num_present, :num_present]


def _groups(in_truth_K: Tensor) -> Tensor:
    """Which classes of the truth count in which group, bool [G,K]."""
    total = int(in_truth_K.sum())
    rows_GK = torch.zeros(len(GROUPS), len(in_truth_K), dtype=torch.bool)
    rows_GK[0] = True
    for place, pixels in enumerate(in_truth_K.tolist()):
        if place and pixels:
            # ceil(100 pixels / total) <= percent is 100 pixels <= percent total: exact in integers.
            rows_GK[1 + sum(100 * pixels > percent * total for percent in PERCENT), place] = True
    rows_GK[1:, 0] = rows_GK[1:, 1:].any(dim=1)
    return rows_GK


def size_scores(counts_GC23: Tensor) -> dict[str, float]:
    """The evaluator's means, in [0, 1], from `SizeCounts.counts` of all classes added over images, int64 [G,C,2,3].

    `mean_iou` and `boundary_iou` over all pixels, and `mean_iou_s`, … of each size; NaN for a size that no object has.

    Source: as `size_counts`.  Differs: in [0, 1] instead of percent.
    """
    found: dict[str, float] = {}
    for group, name in enumerate(GROUPS):
        for part, measure in ((REGION, "mean_iou"), (BOUNDARY, "boundary_iou")):
            hits_C, truth_C, predicted_C = counts_GC23[group, :, part].unbind(dim=1)
            iou_C = class_iou(hits_C, in_truth=truth_C, in_prediction=predicted_C).nan_to_num(0.0)
            chosen_C = torch.ones_like(truth_C, dtype=torch.bool) if name == "all" else truth_C > 0
            found[measure if name == "all" else f"{measure}_{name}"] = float(iou_C[chosen_C].mean())
    return found


def f_measure(foreground_I3: Tensor) -> float:
    """The mean over images of F of the foreground, from int64 [I,3] in a fixed order (`SizeCounts.foreground`).

    F = 1.3 P R / (0.3 P + R) with precision P and recall R of "any class" against the background; 0 without a hit.

    Source: FMeasureGPU in evaluation/metric.py of LUSSeg/ImageNet-S.  Differs: as published.
    """
    truth_I, predicted_I, both_I = foreground_I3.double().unbind(dim=1)
    tiny = 1e-20
    recall_I, precision_I = both_I / (truth_I + tiny), both_I / (predicted_I + tiny)
    return float((1.3 * precision_I * recall_I / (0.3 * precision_I + recall_I + tiny)).mean())
