"""Mean IoU at background thresholds that were chosen without masks: one for all images, per class, or per image.

The thresholds come from histograms of the winning scores; masks only measure the result. Shape letters: C classes with
background, N bins, P rows (`image_rows`), V = 1 + 2N columns of class sums, I images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wsss.ops.bootstrap import ROW_START
from wsss.ops.threshold_curve import at_thresholds, mean_over_classes

Method = Callable[[Tensor], Tensor]
"""Histograms [...,N] -> the bin of the threshold of each, int64 [...]."""


def at_class_bins(counts_CCN: Tensor, *, bins_C: Tensor) -> float:
    """Mean IoU if a pixel is background where its winner's score is below the bin of that class.

    `counts_CCN`: pixels by truth, winner and bin (`curve_counts`). `bins_C` int64 [C]; that of the background is not
    used. Classes without a pixel are excluded, as in `Scores`.
    """
    return at_class_bins_of_halves((counts_CCN,), bins=(bins_C,))


def at_class_bins_of_halves(counts: Sequence[Tensor], *, bins: Sequence[Tensor]) -> float:
    """As `at_class_bins`, for parts of the images that have bins of their own: their pixels are counted together."""
    parts = [_sums_at(counts_CCN, bins_C) for counts_CCN, bins_C in zip(counts, bins, strict=True)]
    hits_C, union_C = (torch.stack(one).sum(0) for one in zip(*parts, strict=True))
    return float(mean_over_classes(hits_C[:, None], union_CN=union_C[:, None])[0])


def _sums_at(counts_CCN: Tensor, bins_C: Tensor) -> tuple[Tensor, Tensor]:
    """Hits and union of every class, int64 [C] each."""
    num_bins = counts_CCN.shape[-1]
    wins_CN = torch.arange(num_bins) >= bins_C[:, None]
    wins_CN[0] = False
    kept_CC = (counts_CCN * wins_CN).sum(-1)
    hits_C = kept_CC.diagonal().clone()
    predicted_C = kept_CC.sum(0)
    truth_C = counts_CCN.sum(dim=(1, 2))
    hits_C[0] = truth_C[0] - kept_CC[0].sum()
    predicted_C[0] = truth_C.sum() - kept_CC.sum()
    return hits_C, truth_C + predicted_C - hits_C


def class_bins(counts_CCN: Tensor, *, method: Method) -> Tensor:
    """The threshold of every class from the scores of the pixels that it wins in all images, int64 [C]."""
    return method(counts_CCN.sum(0))


def whole_bin(counts_CCN: Tensor, *, method: Method) -> int:
    """One threshold from the winning scores of all images. Without a class that can win, pixels do not count."""
    return int(method(counts_CCN[:, 1:].sum(dim=(0, 1))))


def image_bins(rows_PV: Tensor, *, method: Method) -> tuple[Tensor, Tensor]:
    """The images of `image_rows` and the threshold of each, from its own winning scores; int64 [I] each."""
    images, place_P = rows_PV[:, 0].unique(return_inverse=True)
    won_PN = _won(rows_PV)
    histogram_IN = torch.zeros((len(images), won_PN.shape[1]), dtype=torch.int64)
    histogram_IN.index_add_(0, place_P, won_PN.to(torch.int64))
    return images, method(histogram_IN)


def at_image_bins(rows_PV: Tensor, *, num_classes: int, method: Method) -> float:
    """Mean IoU if every image has its own threshold."""
    images, bins_I = image_bins(rows_PV, method=method)
    place_P = torch.searchsorted(images, rows_PV[:, 0].contiguous())
    num_bins = _won(rows_PV).shape[1]
    above_PV = at_thresholds(rows_PV[:, ROW_START:].to(torch.int64))
    bin_P1 = bins_I[place_P][:, None]
    truth_P, classes_P = above_PV[:, 0], rows_PV[:, 1].to(torch.int64)
    own_P = above_PV[:, 1 : num_bins + 1].gather(1, bin_P1)[:, 0]
    won_P = above_PV[:, num_bins + 1 :].gather(1, bin_P1)[:, 0]
    truth_C, own_C, won_C = (torch.zeros(num_classes, dtype=torch.int64) for _ in range(3))
    for total_C, part_P in ((truth_C, truth_P), (own_C, own_P), (won_C, won_P)):
        total_C.index_add_(0, classes_P, part_P)
    # The background has the pixels that no class wins; its row counts those of its truth that a class wins.
    own_C[0] = truth_C[0] - own_C[0]
    won_C[0] = truth_C.sum() - won_C[1:].sum()
    return float(mean_over_classes(own_C[:, None], union_CN=(truth_C + won_C - own_C)[:, None])[0])


def _won(rows_PV: Tensor) -> Tensor:
    """[P,N]: the pixels that the row's class wins, by bin."""
    sums_PV = rows_PV[:, ROW_START:]
    return sums_PV[:, 1 + (sums_PV.shape[1] - 1) // 2 :]
