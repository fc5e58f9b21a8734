"""A background threshold for every class, chosen with masks, from counts of one pass. Shape letters: C classes with
background, N bins."""

from __future__ import annotations

import torch
from torch import Tensor

from wsss.ops.label_free import at_class_bins
from wsss.ops.threshold_curve import curve, mean_over_classes

MOST_SWEEPS = 20


def best_class_bins(counts_CCN: Tensor) -> Tensor:
    """The bin of every class's threshold, int64 [C], that no change of a single class's bin improves.

    The mean IoU that is maximised is `at_class_bins`: a pixel belongs to the class with the highest score, or to the
    background if that score is below the class's threshold. It starts from the best threshold for all classes and
    changes one class after the other, as long as the mean IoU rises, so the result is never worse than the start. A
    class that wins no pixel keeps the start's bin: the counts say nothing about it. Equal bins: the lowest.

    `counts_CCN`: pixels by truth, winner and bin (`curve_counts`).

    Source: ours (coordinate ascent); the counts are those of `threshold_curve`.
    """
    start = int(curve(counts_CCN).nan_to_num(-1.0).argmax())
    bins_C = torch.full((len(counts_CCN),), start, dtype=torch.int64)
    won = [c for c in range(1, len(counts_CCN)) if int(counts_CCN[:, c].sum())]
    reached = at_class_bins(counts_CCN, bins_C=bins_C)
    for _ in range(MOST_SWEEPS):
        before = reached
        for c in won:
            scores_N = _scores_of(counts_CCN, bins_C, c)
            best = int(scores_N.nan_to_num(-1.0).argmax())
            if float(scores_N[best]) > reached:
                bins_C[c], reached = best, float(scores_N[best])
        if reached <= before:
            break
    return bins_C


def _scores_of(counts_CCN: Tensor, bins_C: Tensor, chosen: int) -> Tensor:
    """Mean IoU with every bin for one class, float64 [N], the other classes' bins as they are."""
    num_bins = counts_CCN.shape[-1]
    wins_CN = torch.arange(num_bins) >= bins_C[:, None]
    wins_CN[0] = wins_CN[chosen] = False
    kept_CC = (counts_CCN * wins_CN).sum(-1)
    own_CN = counts_CCN[:, chosen].flip(-1).cumsum(-1).flip(-1)  # by truth: pixels that the class takes at every bin
    hits_CN = kept_CC.diagonal()[:, None].repeat(1, num_bins)
    predicted_CN = kept_CC.sum(0)[:, None].repeat(1, num_bins)
    hits_CN[chosen], predicted_CN[chosen] = own_CN[chosen], own_CN.sum(0)
    truth_C = counts_CCN.sum(dim=(1, 2))
    hits_CN[0] = truth_C[0] - kept_CC[0].sum() - own_CN[0]
    predicted_CN[0] = truth_C.sum() - kept_CC.sum() - own_CN.sum(0)
    return mean_over_classes(hits_CN, union_CN=truth_C[:, None] + predicted_CN - hits_CN)
