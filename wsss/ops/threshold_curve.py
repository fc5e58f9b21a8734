"""Mean IoU at every background threshold from one pass over the score maps.

A pixel goes to its best-scored class if that score is at least the threshold, to the background otherwise. The winner
does not depend on the threshold, so counting pixels by truth, winner and score is enough for all thresholds i/256.

Shape letters: C classes with background, K classes scored, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsss.ops.confusion import Scores, class_iou, require_labels

NUM_BINS = 256
"""Thresholds are i / NUM_BINS; a power of two, so that score * NUM_BINS is exact."""


def curve_counts(
    scores_KHW: Tensor,
    *,
    classes: Sequence[int],
    truth_HW: Tensor,
    num_classes: int,
    ignore_index: int,
    total: Tensor | None = None,
) -> Tensor:
    """Pixels by (truth, winning class, bin of the winning score), bin = min(floor(256 * score), 255).

    Shapes: scores [K,H,W] in [0, 1] at the truth's size, K class ids, truth integer [H,W]; result int64 [C,C,256].
    `num_classes` counts the background. score >= i/256 exactly where bin >= i, for i = 0..255. Equal scores: the class
    listed first. Without classes the winner is 0 and the pixel is background at any threshold. `total` is added to in
    place and returned: at 201 classes the array takes 83 MB, too much for one per image.

    Raises: ValueError for shapes that do not fit, scores outside [0, 1] or NaN, class ids outside 1..C-1, truth
    outside 0..C-1 other than `ignore_index`.

    Source: ours.
    """
    _require_scores(scores_KHW, classes=classes, truth_HW=truth_HW, num_classes=num_classes)
    counted_HW = truth_HW != ignore_index
    truth = truth_HW[counted_HW].to(torch.int64)
    require_labels(truth, num_classes=num_classes, name="truth")
    winner = torch.zeros_like(truth)
    bins = torch.zeros_like(truth)
    if len(classes):
        ids_K = torch.tensor([int(c) for c in classes], dtype=torch.int64, device=truth.device)
        winner = ids_K[scores_KHW.argmax(dim=0)[counted_HW]]
        best = scores_KHW.amax(dim=0)[counted_HW]
        bins = (best * NUM_BINS).floor().to(torch.int64).clamp_(max=NUM_BINS - 1)
    counts = total
    if counts is None:
        counts = torch.zeros((num_classes, num_classes, NUM_BINS), dtype=torch.int64, device=truth.device)
    cell = (truth * num_classes + winner) * NUM_BINS + bins
    counts.view(-1).index_add_(0, cell, torch.ones_like(cell))
    return counts


def confusion_at(counts_CCN: Tensor, *, threshold_bin: int) -> Tensor:
    """Confusion matrix, int64 [C,C], at the threshold `threshold_bin` / 256: background where score < threshold.

    Raises: ValueError for a bin outside 0..255.
    """
    if not 0 <= threshold_bin < NUM_BINS:
        raise ValueError(f"threshold_bin is {threshold_bin}; allowed: 0..{NUM_BINS - 1}, for thresholds bin/{NUM_BINS}")
    confusion_CC = counts_CCN[..., threshold_bin:].sum(dim=-1)
    confusion_CC[:, 0] += counts_CCN[..., :threshold_bin].sum(dim=(1, 2))
    return confusion_CC


def curve(counts_CCN: Tensor) -> Tensor:
    """Mean IoU at the thresholds i/256, float64 [256]: what `Scores` says of `confusion_at` for each i.

    Needs per class only its hits and its predictions, so no matrix is built per threshold. NaN where nothing was
    counted.
    """
    hits_CN = _from_bin_upwards(counts_CCN.diagonal(dim1=0, dim2=1).T)
    predicted_CN = _from_bin_upwards(counts_CCN.sum(dim=0))
    in_truth_C = counts_CCN.sum(dim=(1, 2))
    # Everything that no foreground class has taken is background, in the prediction and in its hits.
    taken_from_truth_0_N = _from_bin_upwards(counts_CCN[0, 1:].sum(dim=0))
    hits_CN[0] = in_truth_C[0] - taken_from_truth_0_N
    predicted_CN[0] = in_truth_C.sum() - predicted_CN[1:].sum(dim=0)
    iou_CN = class_iou(hits_CN, in_truth=in_truth_C[:, None], in_prediction=predicted_CN)
    return iou_CN.nanmean(dim=0)


@dataclass(frozen=True, kw_only=True)
class TwoFold:
    """Thresholds that never saw the images they are scored on."""

    threshold_from_a: float
    """Best on fold a, used on fold b."""
    threshold_from_b: float
    """Best on fold b, used on fold a."""
    confusion: Tensor
    """[C,C], the sum over both folds, each at the other's threshold; int64."""

    @property
    def scores(self) -> Scores:
        """Scores of both folds together."""
        return Scores.from_confusion(self.confusion)


def two_fold_threshold(counts_a: Tensor, counts_b: Tensor) -> TwoFold:
    """Choose the threshold on either fold, score it on the other, add the two confusion matrices.

    Choosing and scoring on the same images reports a best case; this does not. Equal mean IoU: the lowest threshold.

    Raises: ValueError for a fold without a counted pixel.

    Source: two-fold cross-validation.
    """
    bin_a, bin_b = _best_bin(counts_a, name="a"), _best_bin(counts_b, name="b")
    return TwoFold(
        threshold_from_a=bin_a / NUM_BINS,
        threshold_from_b=bin_b / NUM_BINS,
        confusion=confusion_at(counts_a, threshold_bin=bin_b) + confusion_at(counts_b, threshold_bin=bin_a),
    )


def _best_bin(counts_CCN: Tensor, *, name: str) -> int:
    mean_iou_N = curve(counts_CCN)
    if bool(mean_iou_N.isnan().all()):
        raise ValueError(f"fold {name} has no counted pixel; give it at least one image with a truth to score")
    return int((mean_iou_N == mean_iou_N.max()).nonzero()[0])


def _from_bin_upwards(counts_CN: Tensor) -> Tensor:
    """sum over bins >= i, for each i."""
    return counts_CN.flip(-1).cumsum(dim=-1).flip(-1)


def _require_scores(scores_KHW: Tensor, *, classes: Sequence[int], truth_HW: Tensor, num_classes: int) -> None:
    wanted = [len(classes), *truth_HW.shape]
    if list(scores_KHW.shape) != wanted:
        raise ValueError(
            f"scores are {list(scores_KHW.shape)}; allowed: {wanted}, one map per class at the truth's size"
        )
    wrong = [int(c) for c in classes if not 1 <= int(c) < num_classes]
    if wrong or len(set(classes)) != len(classes):
        raise ValueError(f"classes is {[int(c) for c in classes]}; allowed: different ids from 1..{num_classes - 1}")
    if scores_KHW.numel() and not bool(((scores_KHW >= 0) & (scores_KHW <= 1)).all()):
        raise ValueError("scores have values outside [0, 1] or NaN; normalise the maps first")
