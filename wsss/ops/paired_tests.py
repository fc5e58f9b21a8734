"""Are two systems different on the same images? Paired bootstrap intervals, a randomisation test, Holm, McNemar.

All of them draw images, not pixels: the pixels of one image are not independent of each other.

Shape letters: C classes with background, I images, R replicates, S systems, P rows: one per image and class that has a
pixel in the truth or in a prediction.
A row is (image, class, pixels in the truth, then for every system: pixels predicted, hits), int64 [P, 3 + 2S].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import isnan

import torch
from torch import Tensor

ROW_START = 3
"""Columns of a row before those of the systems."""
_CELLS_AT_ONCE = 2**20
"""Numbers held per array: 8 MB."""


def total_sums(rows_PV: Tensor, *, num_classes: int) -> Tensor:
    """Sums of every class over all images, float64 [C, 1 + 2S]: truth, then predicted and hits of every system."""
    sums_CV = torch.zeros(num_classes, rows_PV.shape[1] - 2, dtype=torch.float64)
    return sums_CV.index_add_(0, rows_PV[:, 1], rows_PV[:, 2:].double())


def iou_of_sums(sums_RCV: Tensor) -> Tensor:
    """IoU of every system and class from sums [R,C,V], float64 [S,R,C]; NaN for a class in neither truth nor
    prediction."""
    truth_RC, predicted, hits = sums_RCV[..., 0], sums_RCV[..., 1::2], sums_RCV[..., 2::2]
    union = truth_RC[..., None] + predicted - hits
    return torch.where(union > 0, hits / union, torch.nan).permute(2, 0, 1)


def accuracy_of_sums(sums_RCV: Tensor) -> tuple[Tensor, Tensor]:
    """Mean accuracy over the classes of the truth, and pixel accuracy, from sums [R,C,V]; float64 [S,R] each."""
    truth_RC1, hits = sums_RCV[..., :1], sums_RCV[..., 2::2]
    recall = torch.where(truth_RC1 > 0, hits / truth_RC1, torch.nan)
    return recall.nanmean(dim=1).T, (hits.sum(1) / truth_RC1.sum(1)).T


def bootstrap_sums(rows_PV: Tensor, *, num_classes: int, num_replicates: int, generator: torch.Generator) -> Tensor:
    """`total_sums` over images drawn with replacement, the same ones for all systems; float64 [R,C,V].

    Percentiles of a score of these sums are its interval; percentiles of the difference of two systems' scores are an
    interval of their paired difference. With few images of a class (less than about 30) it is too narrow.
    The result does not depend on the order of the rows.

    Source: Efron, Annals of Statistics 1979; the percentile interval of Efron and Tibshirani 1993, chapter 13.
    """
    data = _ByClass(rows_PV, num_classes=num_classes)

    def draw() -> Tensor:
        drawn = torch.randint(data.num_images, (data.num_images,), generator=generator)
        return torch.bincount(drawn, minlength=data.num_images).double()

    sizes = _chunks(num_replicates, max(data.num_images, num_classes * data.num_columns))
    return torch.cat([data.sums(torch.stack([draw() for _ in range(size)], dim=1)) for size in sizes])


def percentile_interval(values_RX: Tensor, *, level: float) -> Tensor:
    """The percentile interval over replicates, float64 [2, X]; NaN where every replicate is NaN."""
    share = (1 - level) / 2
    return torch.nanquantile(values_RX.double(), torch.tensor([share, 1 - share], dtype=torch.float64), dim=0)


def randomisation_test(
    rows_PV: Tensor, *, num_classes: int, num_replicates: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Two-sided p-values of the difference in IoU of two systems: of every class, float64 [C], and of the mean IoU.

    If the systems were equally good, it would not matter which of them made which result of an image. A replicate swaps
    the two results of every image with probability 1/2, and the p-value is (1 + replicates with a difference at least
    as large) / (1 + R). So a class in n images has no p-value below about 2^(1-n), and a difference that rests on three
    images is never significant, as it can be by a bootstrap. NaN for a class without an IoU in one of the systems.

    Source: Fisher, The Design of Experiments, 1935; Noreen 1989, approximate randomisation; the estimate with 1 + R of
    Phipson and Smyth 2010.
    """
    data = _ByClass(rows_PV, num_classes=num_classes)
    total_CV = total_sums(rows_PV, num_classes=num_classes)
    wanted_C, wanted = _differences(iou_of_sums(total_CV[None]))
    at_least_C, at_least = torch.zeros(num_classes), 0
    for size in _chunks(num_replicates, max(data.num_images, num_classes * data.num_columns)):
        swapped_IR = torch.randint(2, (data.num_images, size), generator=generator).double()
        moved_RCV = data.sums(swapped_IR)[..., 1:]  # what the swapped images contribute to either system
        change_RCV = moved_RCV[..., 2:] - moved_RCV[..., :2]
        new_RCV = total_CV.expand(size, -1, -1).clone()
        new_RCV[..., 1:3] += change_RCV
        new_RCV[..., 3:5] -= change_RCV
        found_RC, found_R = _differences(iou_of_sums(new_RCV))
        at_least_C += (found_RC.abs() >= wanted_C.abs() - 1e-12).sum(0)
        at_least += int((found_R.abs() >= wanted.abs() - 1e-12).sum())
    p_values_C = torch.where(wanted_C[0].isnan(), torch.nan, (1 + at_least_C.double()) / (1 + num_replicates))
    return p_values_C, (1 + at_least) / (1 + num_replicates)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, NaN left out: the chance of any false finding stays below the level.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not isnan(p))
    corrected, largest = [float("nan")] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[place] = largest
    return corrected


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value of McNemar's test, from the images that only one of two systems gets right.

    Source: McNemar, Psychometrika 1947; the exact binomial test instead of its approximation by chi-squared.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    if 2 * fewer == total:
        return 1.0
    term = tail = 1  # binomial coefficients: total over 0, 1, ...
    for k in range(1, fewer + 1):
        term = term * (total - k + 1) // k
        tail += term
    return min(1.0, float(Fraction(2 * tail, 2**total)))


def _differences(iou_SRC: Tensor) -> tuple[Tensor, Tensor]:
    """Second system less the first: of the classes [R,C], of the means over the classes that have an IoU [R]."""
    return iou_SRC[1] - iou_SRC[0], iou_SRC[1].nanmean(dim=1) - iou_SRC[0].nanmean(dim=1)


def _chunks(num_replicates: int, cells: int) -> Iterator[int]:
    at_once = max(1, _CELLS_AT_ONCE // cells)
    return (min(at_once, num_replicates - first) for first in range(0, num_replicates, at_once))


class _ByClass:
    """Rows sorted by class and image, and their sums under weights of the images."""

    def __init__(self, rows_PV: Tensor, *, num_classes: int) -> None:
        images, place_P = rows_PV[:, 0].unique(return_inverse=True)
        order = (rows_PV[:, 1] * len(images) + place_P).argsort()
        rows_PV, self._place_P = rows_PV[order], place_P[order]
        self.num_images, self.num_columns, self._num_classes = len(images), rows_PV.shape[1] - 2, num_classes
        self._counts = torch.bincount(rows_PV[:, 1], minlength=num_classes).tolist()
        self._values_PV = rows_PV[:, 2:].double()

    def sums(self, weights_IR: Tensor) -> Tensor:
        """float64 [R,C,V]: whole numbers below 2^53, so exact in any order."""
        sums_CVR = weights_IR.new_zeros((self._num_classes, self.num_columns, weights_IR.shape[1]))
        start = 0
        for class_id, count in enumerate(self._counts):
            rows = slice(start, start + count)
            if count:  # the weights of an image are one row, which is copied as a whole
                sums_CVR[class_id] = self._values_PV[rows].T @ weights_IR.index_select(0, self._place_P[rows])
            start += count
        return sums_CVR.permute(2, 0, 1)
