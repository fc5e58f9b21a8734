"""Thresholds of score maps that need no mask, beside the two-fold threshold, for an `evaluate` of maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shards.layer import split_of
from wsss.contract.counts import Counts
from wsss.contract.stage import Instance, Reduce

if TYPE_CHECKING:
    import torch

METHODS = ("otsu", "mixture")
"""Otsu's threshold; the minimum-error threshold of a mixture of two normal distributions."""


@dataclass(frozen=True, kw_only=True)
class ThresholdScore:
    """A way to choose background thresholds, and the mean IoU of label maps made with them."""

    method: str
    scope: str
    """`all images`, `class` or `image`: what has a threshold of its own."""
    masks: bool
    """Whether masks were used to choose."""
    thresholds: tuple[float, ...]
    """The threshold; the smallest, the median and the largest, if there are several."""
    mean_iou: float
    by_class: Mapping[int, float] = field(default_factory=dict)
    """Class id -> its threshold, where classes have their own, chosen on all counted images."""


def counted(instance: Instance, split: str) -> Counts:
    """The counts of an `evaluate` instance on one split, in this process, with the rows of every image."""
    stage = instance.stage
    assert isinstance(stage, Reduce)
    count: Callable[[str], Counts] = stage.counter(instance)
    parts = [count(shard) for shard in stage.shards(instance) if split_of(shard) == split]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def threshold_scores(counts: Counts, split: str) -> list[ThresholdScore]:
    """The best thresholds, the two-fold ones, and every label-free one, on the images that were counted."""
    import torch

    from wsss.ops.histogram_threshold import minimum_error_bin, otsu_bin
    from wsss.ops.label_free import at_class_bins, at_image_bins, class_bins, image_bins, whole_bin
    from wsss.ops.threshold_curve import curve

    a_CCN, b_CCN = (torch.from_numpy(counts.sums[f"{split}.fold{fold}"]) for fold in range(2))
    both_CCN, rows_PV = a_CCN + b_CCN, torch.from_numpy(counts.rows[split])
    used_C, curve_N = both_CCN.sum(dim=(0, 2)) > 0, curve(both_CCN)  # classes that win a pixel
    scores = _with_masks(a_CCN, b_CCN, used_C=used_C)
    for name, method in zip(METHODS, (otsu_bin, minimum_error_bin), strict=True):
        one, of_classes = whole_bin(both_CCN, method=method), class_bins(both_CCN, method=method)
        _, of_images = image_bins(rows_PV, method=method)
        of_image_iou = at_image_bins(rows_PV, num_classes=len(both_CCN), method=method)
        scores += [
            _score(name, "all images", [one], float(curve_N[one])),
            _of_classes(name, of_classes, at_class_bins(both_CCN, bins_C=of_classes), used_C=used_C, masks=False),
            _score(name, "image", of_images.tolist(), of_image_iou),
        ]
    return scores


def _with_masks(a_CCN: torch.Tensor, b_CCN: torch.Tensor, *, used_C: torch.Tensor) -> list[ThresholdScore]:
    """Thresholds chosen with masks, for all classes and for each: on all images, and on the other half."""
    import torch

    from wsss.ops.class_thresholds import best_class_bins
    from wsss.ops.label_free import at_class_bins, at_class_bins_of_halves
    from wsss.ops.threshold_curve import NUM_BINS, curve, two_fold_threshold

    both_CCN = a_CCN + b_CCN
    curve_N = curve(both_CCN)
    best, crossed = int(curve_N.nan_to_num(-1.0).argmax()), two_fold_threshold(a_CCN, b_CCN)
    folds = [round(NUM_BINS * one) for one in (crossed.threshold_from_a, crossed.threshold_from_b)]
    best_C, of_halves = best_class_bins(both_CCN), [best_class_bins(part) for part in (a_CCN, b_CCN)]
    shown = torch.cat([one[1:][used_C[1:]] for one in of_halves]).tolist()
    crossed_iou = at_class_bins_of_halves((a_CCN, b_CCN), bins=of_halves[::-1])
    return [
        _score("best", "all images", [best], float(curve_N[best]), masks=True),
        _score("two-fold", "fold", folds, crossed.scores.mean_iou, masks=True),
        _of_classes("best", best_C, at_class_bins(both_CCN, bins_C=best_C), used_C=used_C, masks=True),
        _score("two-fold", "fold and class", shown, crossed_iou, masks=True),
    ]


def _of_classes(
    method: str, bins_C: torch.Tensor, mean_iou: float, *, used_C: torch.Tensor, masks: bool
) -> ThresholdScore:
    from wsss.ops.threshold_curve import NUM_BINS

    used = [c for c in range(1, len(bins_C)) if used_C[c]]
    score = _score(method, "class", bins_C[used].tolist(), mean_iou, masks=masks)
    return replace(score, by_class={c: int(bins_C[c]) / NUM_BINS for c in used})


def _score(method: str, scope: str, bins: list[int], mean_iou: float, *, masks: bool = False) -> ThresholdScore:
    from wsss.ops.threshold_curve import NUM_BINS

    ordered = sorted(bins)
    shown = ordered if len(ordered) < 3 else [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    thresholds = tuple(one / NUM_BINS for one in shown)
    return ThresholdScore(method=method, scope=scope, masks=masks, thresholds=thresholds, mean_iou=mean_iou)
