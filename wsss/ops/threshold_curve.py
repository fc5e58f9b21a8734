"""Mean IoU at every background threshold from one pass over the score maps.

A pixel goes to its best-scored class if that score is at least the threshold, to the background otherwise. The winner
does not depend on the threshold, so counting pixels by truth, winner and score is enough for all thresholds i/256.
This works only if nothing follows the threshold: with a dense CRF after it, every threshold needs its own CRF run.

Counts of many classes are sparse: `curve`, `activation_curves`, `confusion_at` and `two_fold_threshold` also read them
as `CellCounts`.

Shape letters: C classes with background, K classes scored, L winners, H W pixels, N bins, V columns of class sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsss.ops.cell_counts import CellCounts
from wsss.ops.confusion import Scores, require_labels

NUM_BINS = 256
"""Thresholds are i / NUM_BINS; a power of two, so that score * NUM_BINS is exact."""
ROUNDING = 2.0**-9
"""How far outside [0, 1] a score may be due to rounding; it is counted as 0 or 1. Scores whose maximum over the pixels
is 1 are stored as float16 on a coarser grid, where they may be up to 4."""


def bin_of(threshold: float) -> int:
    """The i of a threshold i/256. Raises: ValueError for any other threshold, since counts are per bin."""
    scaled = float(threshold) * NUM_BINS
    if not scaled.is_integer() or not 0 <= scaled < NUM_BINS:
        below = int(min(max(scaled, 1), NUM_BINS - 2))
        raise ValueError(
            f"a threshold of {threshold} is not a multiple of 1/{NUM_BINS} below 1; scores are counted in "
            f"{NUM_BINS} bins; the nearest allowed are {below / NUM_BINS} and {(below + 1) / NUM_BINS}"
        )
    return int(scaled)


def winners_of(classes: Sequence[int]) -> list[int]:
    """Classes that can win a pixel: the scored classes, or only the background if there are none."""
    return [int(c) for c in classes] or [0]


def image_counts(
    scores_KHW: Tensor, *, classes: Sequence[int], truth_HW: Tensor, num_classes: int, ignore_index: int
) -> Tensor:
    """Pixels of one image by (truth, winner, bin of the winning score), bin = min(floor(256 * score), 255).

    Shapes: scores [K,H,W] in [0, 1] at the truth's size, K class ids, truth integer [H,W]; result int64 [C,L,256], one
    column for every one of `winners_of(classes)`. `num_classes` counts the background. score >= i/256 if and only if
    bin >= i, for i = 0..255. Equal scores: the class listed first.

    Raises: ValueError for shapes that do not fit, scores outside [0, 1] by more than rounding or NaN, class ids outside
    1..C-1, truth outside 0..C-1 other than `ignore_index`.

    Source: ours.
    """
    require_scores(scores_KHW, classes=classes, truth_HW=truth_HW, num_classes=num_classes)
    num_winners = len(winners_of(classes))
    num_cells = num_classes * num_winners * NUM_BINS
    # Ignored pixels are counted in an extra last cell, which is faster than selecting the others.
    counted_HW = truth_HW != ignore_index
    truth_known_HW = torch.where(counted_HW, truth_HW, 0)
    require_labels(truth_known_HW, num_classes=num_classes, name="truth")
    cell_HW = truth_known_HW.to(torch.int64).mul_(num_winners * NUM_BINS)
    if len(classes):
        best_HW, index_HW = scores_KHW.max(dim=0)
        cell_HW += index_HW.mul_(NUM_BINS)
        cell_HW += best_HW.mul_(NUM_BINS).clamp_(0, NUM_BINS - 1).to(torch.int64)  # towards 0, so downwards
    cell_HW = torch.where(counted_HW, cell_HW, num_cells)
    counts = torch.bincount(cell_HW.flatten(), minlength=num_cells + 1)[:num_cells]
    return counts.view(num_classes, num_winners, NUM_BINS)


def curve_counts(
    scores_KHW: Tensor,
    *,
    classes: Sequence[int],
    truth_HW: Tensor,
    num_classes: int,
    ignore_index: int,
    total: Tensor | None = None,
) -> Tensor:
    """`image_counts` as int64 [C,C,256], by the winner's class id. `total` is added to in place and returned: at 201
    classes the array takes 83 MB, too much for one per image.

    Without classes the winner is 0 and the pixel is background at any threshold.
    """
    part_CLN = image_counts(
        scores_KHW, classes=classes, truth_HW=truth_HW, num_classes=num_classes, ignore_index=ignore_index
    )
    if total is None:
        total = torch.zeros((num_classes, num_classes, NUM_BINS), dtype=torch.int64, device=part_CLN.device)
    for place, winner in enumerate(winners_of(classes)):
        total[:, winner] += part_CLN[:, place]
    return total


def confusion_at(counts_CCN: Tensor | CellCounts, *, threshold_bin: int) -> Tensor:
    """Confusion matrix, int64 [C,C], at the threshold `threshold_bin` / 256: background where score < threshold.

    Raises: ValueError for a bin outside 0..255.
    """
    if not 0 <= threshold_bin < NUM_BINS:
        raise ValueError(f"threshold_bin is {threshold_bin}; allowed: 0..{NUM_BINS - 1}, for thresholds bin/{NUM_BINS}")
    if isinstance(counts_CCN, CellCounts):
        return counts_CCN.confusion_at(threshold_bin)
    confusion_CC = counts_CCN[..., threshold_bin:].sum(dim=-1)
    confusion_CC[:, 0] += counts_CCN[..., :threshold_bin].sum(dim=(1, 2))
    return confusion_CC


def class_sums(counts_CLN: Tensor, *, winners: Sequence[int]) -> Tensor:
    """The sums of counts needed for class-wise scores at every threshold, [C, V = 1 + 2N], of the counts' type.

    Column 0: pixels of the class in the truth. Columns 1..N, by bin: of these, the ones that the class wins; for the
    background (row 0), the ones that any class wins. Columns N+1..2N, by bin: pixels that the class wins;
    0 for the background, which has the remaining pixels. Sums of images, and of parts of a data set, are additive.

    Counts by pixels of label maps are the case of one bin: a confusion matrix as [C,C,1], winners 0..C-1.
    """
    num_classes, _, num_bins = counts_CLN.shape
    given = torch.tensor(list(winners), device=counts_CLN.device)
    ids, won_CLN = given[given > 0], counts_CLN[:, given > 0]
    sums_CV = counts_CLN.new_zeros((num_classes, 1 + 2 * num_bins))
    sums_CV[:, 0] = counts_CLN.sum(dim=(1, 2))
    sums_CV[ids, 1 : num_bins + 1] = won_CLN[ids, torch.arange(len(ids), device=ids.device)]
    sums_CV[0, 1 : num_bins + 1] = won_CLN[0].sum(dim=0)
    sums_CV[ids, num_bins + 1 :] = won_CLN.sum(dim=0)
    return sums_CV


def at_thresholds(sums_CV: Tensor) -> Tensor:
    """`class_sums` [...,V] with the pixels of bin >= i instead of those of bin i."""
    num_bins = sums_CV.shape[-1] // 2
    own_CN, won_CN = sums_CV[..., 1 : num_bins + 1], sums_CV[..., num_bins + 1 :]
    return torch.cat([sums_CV[..., :1], _from_bin_upwards(own_CN), _from_bin_upwards(won_CN)], dim=-1)


def hits_and_union(above_CV: Tensor) -> tuple[Tensor, Tensor]:
    """From `at_thresholds` [...,C,V]: hits, and pixels in truth or prediction, at thresholds i/N; [...,C,N] each."""
    num_bins = above_CV.shape[-1] // 2
    in_truth_C1 = above_CV[..., :1]
    own_CN, won_CN = above_CV[..., 1 : num_bins + 1].clone(), above_CV[..., num_bins + 1 :].clone()
    # All pixels that no class has won are background, in the prediction and in its hits.
    own_CN[..., 0, :] = in_truth_C1[..., 0, :] - own_CN[..., 0, :]
    won_CN[..., 0, :] = in_truth_C1.sum(dim=-2) - won_CN.sum(dim=-2)
    return own_CN, won_CN.add_(in_truth_C1).sub_(own_CN)


def mean_over_classes(hits_CN: Tensor, *, union_CN: Tensor) -> Tensor:
    """Mean IoU of [...,C,N], float64 [...,N], excluding classes without a pixel; NaN if no class has one."""
    iou_CN = hits_CN.to(torch.float64) / union_CN.clamp_min(1)
    return iou_CN.sum(dim=-2) / (union_CN > 0).sum(dim=-2)


def all_class_sums(counts_CCN: Tensor | CellCounts) -> Tensor:
    """`class_sums` of counts by all classes, [C,V]."""
    if isinstance(counts_CCN, CellCounts):
        return counts_CCN.class_sums()
    return class_sums(counts_CCN, winners=range(len(counts_CCN)))


def curve(counts_CCN: Tensor | CellCounts) -> Tensor:
    """Mean IoU at the thresholds i/256, float64 [256]: as `Scores` of `confusion_at` for each i.

    Needs per class only its hits and its predictions, so no matrix is built per threshold. NaN if nothing was
    counted.
    """
    hits_CN, union_CN = hits_and_union(at_thresholds(all_class_sums(counts_CCN)))
    return mean_over_classes(hits_CN, union_CN=union_CN)


def activation_curves(counts_CCN: Tensor | CellCounts) -> tuple[Tensor, Tensor]:
    """Over- and under-activation at the thresholds i/256, float64 [256] each: `activation_rates` of `confusion_at`.

    The first never rises with the threshold, the second never falls.
    """
    above_CV = at_thresholds(all_class_sums(counts_CCN))
    num_bins, in_truth_C = above_CV.shape[-1] // 2, above_CV[:, 0].to(torch.float64)
    taken_N = above_CV[0, 1 : num_bins + 1]
    found_N = above_CV[1:, num_bins + 1 :].sum(dim=0) - taken_N
    foreground = in_truth_C[1:].sum()
    return taken_N / in_truth_C[0], (foreground - found_N) / foreground


@dataclass(frozen=True, kw_only=True)
class TwoFold:
    """Thresholds chosen on other images than those on which they are scored."""

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


def two_fold_threshold(counts_a: Tensor | CellCounts, counts_b: Tensor | CellCounts) -> TwoFold:
    """Choose the threshold on each fold, score it on the other, sum the two confusion matrices.

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


def _best_bin(counts_CCN: Tensor | CellCounts, *, name: str) -> int:
    mean_iou_N = curve(counts_CCN)
    if bool(mean_iou_N.isnan().all()):
        raise ValueError(f"fold {name} has no counted pixel; give it at least one image with a truth to score")
    return int((mean_iou_N == mean_iou_N.max()).nonzero()[0])


def _from_bin_upwards(counts_CN: Tensor) -> Tensor:
    """sum over bins >= i, for each i."""
    return counts_CN.flip(-1).cumsum(dim=-1).flip(-1)


def require_scores(scores_KHW: Tensor, *, classes: Sequence[int], truth_HW: Tensor, num_classes: int) -> None:
    """Raise ValueError for shapes and ids that do not fit, and for scores outside [0, 1] by more than rounding."""
    wanted = [len(classes), *truth_HW.shape]
    if list(scores_KHW.shape) != wanted:
        raise ValueError(
            f"scores are {list(scores_KHW.shape)}; allowed: {wanted}, one map per class at the truth's size"
        )
    wrong = [int(c) for c in classes if not 1 <= int(c) < num_classes]
    if wrong or len(set(classes)) != len(classes):
        raise ValueError(f"classes is {[int(c) for c in classes]}; allowed: different ids from 1..{num_classes - 1}")
    if scores_KHW.numel():
        low, high = (float(bound) for bound in torch.aminmax(scores_KHW))  # NaN where any score is
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError("scores have values outside [0, 1] or NaN; normalise the maps first")
