"""Bootstrap interval of the mean IoU over images; thresholds are chosen again in every replicate.

Shape letters: C classes with background, N bins, V = 1 + 2N columns of class sums, I images, R replicates,
P rows: one per image and class that has a pixel in truth or prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsss.ops.threshold_curve import at_thresholds, class_sums, hits_and_union, mean_over_classes

ROW_START = 2
"""Number of columns of a row before its class sums: image index and class."""
_CELLS_AT_ONCE = 2**21
"""Numbers held per array: 16 MB."""


def image_rows(counts_CLN: Tensor, *, winners: Sequence[int], image: int) -> Tensor:
    """`class_sums` of one image without its empty rows, each after (image, class); int32 [P, 2 + V].

    Counts from `image_counts` or, for label maps, a confusion matrix as [C,C,1]. An image of two classes takes 6 kB
    at 256 bins, whatever C is; the counts themselves would take C * C * 2 kB.
    """
    sums_CV = class_sums(counts_CLN, winners=winners)
    classes = sums_CV.any(dim=1).nonzero()
    start = torch.cat([torch.full_like(classes, image), classes], dim=1)
    return torch.cat([start, sums_CV[classes[:, 0]]], dim=1).to(torch.int32)


def mean_iou_interval(
    folds_PV: Sequence[Tensor], *, num_classes: int, num_replicates: int, level: float, generator: torch.Generator
) -> tuple[float, float]:
    """Percentile interval of the two-fold mean IoU over images resampled with replacement.

    `folds_PV`: rows of `image_rows` of either fold, int [P, 2 + V]. A replicate draws from each fold as many images as
    it has, chooses the best threshold on each resampled fold, scores it on the other one, and sums the hits, exactly as
    in the original evaluation. With one bin (label maps) no threshold is chosen.
    Images, not pixels, are drawn: pixels of one image are not independent of each other. With few images (less than
    about 30) the interval is too narrow, as for any percentile bootstrap.

    The result depends on the image indices, not on the order of the rows.

    Source: Efron, Annals of Statistics 1979; the percentile interval of Efron and Tibshirani 1993, chapter 13.
    """
    folds = [_Fold(rows, num_classes=num_classes) for rows in folds_PV]
    at_once = max(1, _CELLS_AT_ONCE // (num_classes * max(fold.num_columns for fold in folds)))
    found: list[Tensor] = []
    for first in range(0, num_replicates, at_once):
        size = min(at_once, num_replicates - first)
        drawn = [[fold.draw(generator) for fold in folds] for _ in range(size)]
        sums = [fold.sums(torch.stack(draws)) for fold, draws in zip(folds, zip(*drawn, strict=True), strict=True)]
        found.append(two_fold_mean_iou(sums[0], sums[1]))
    values_R = torch.cat(found)
    share = (1 - level) / 2
    low, high = torch.nanquantile(values_R, torch.tensor([share, 1 - share], dtype=values_R.dtype)).tolist()
    return low, high


def two_fold_mean_iou(above_a: Tensor, above_b: Tensor) -> Tensor:
    """Mean IoU of `two_fold_threshold` for many pairs of folds, from `at_thresholds` [R,C,V] each; float64 [R].

    A fold without a counted pixel chooses the lowest threshold.
    """
    (hits_a, union_a), (hits_b, union_b) = hits_and_union(above_a), hits_and_union(above_b)
    bin_a, bin_b = _best_bin(hits_a, union_a), _best_bin(hits_b, union_b)
    # A union is truth + prediction - hits, so unions of both folds add up as well.
    hits_RC, union_RC = _at(hits_a, bin_b) + _at(hits_b, bin_a), _at(union_a, bin_b) + _at(union_b, bin_a)
    return mean_over_classes(hits_RC[..., None], union_CN=union_RC[..., None])[:, 0]


def _best_bin(hits_RCN: Tensor, union_RCN: Tensor) -> Tensor:
    """The lowest bin with the highest mean IoU, [R]."""
    return mean_over_classes(hits_RCN, union_CN=union_RCN).nan_to_num(-1.0).argmax(dim=-1)


def _at(values_RCN: Tensor, bin_R: Tensor) -> Tensor:
    return values_RCN[torch.arange(len(bin_R)), :, bin_R]


class _Fold:
    """The rows of one fold by class, and their sums under weights of its images."""

    def __init__(self, rows_PV: Tensor, *, num_classes: int) -> None:
        images, place_P = rows_PV[:, 0].unique(return_inverse=True)  # sorted
        self.num_images, self.num_columns = len(images), rows_PV.shape[1] - ROW_START
        self._num_classes = num_classes
        self._of_class = {}
        for class_id in rows_PV[:, 1].unique().tolist():
            chosen = rows_PV[:, 1] == class_id
            order = place_P[chosen].argsort()
            # Sums over bins and over images commute: the sums over bins are computed once, not per replicate.
            self._of_class[class_id] = (
                place_P[chosen][order],
                at_thresholds(rows_PV[chosen][order, ROW_START:]).double(),
            )

    def draw(self, generator: torch.Generator) -> Tensor:
        """How often every image is drawn, float64 [I]."""
        if self.num_images == 0:
            return torch.zeros(0, dtype=torch.float64)
        drawn = torch.randint(self.num_images, (self.num_images,), generator=generator)
        return torch.bincount(drawn, minlength=self.num_images).to(torch.float64)

    def sums(self, weights_RI: Tensor) -> Tensor:
        """`at_thresholds` of the drawn images, float64 [R,C,V]: whole numbers below 2^53, so exact in any order."""
        sums_RCV = weights_RI.new_zeros((len(weights_RI), self._num_classes, self.num_columns))
        for class_id, (place_P, values_PV) in self._of_class.items():
            sums_RCV[:, class_id] = weights_RI[:, place_P] @ values_PV
        return sums_RCV
