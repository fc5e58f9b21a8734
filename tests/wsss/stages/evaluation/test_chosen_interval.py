from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wsss.ops.bootstrap import image_rows
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.threshold_curve import NUM_BINS, confusion_at, image_counts
from wsss.stages.evaluation.chosen_interval import REPLICATES, image_sums, resampled_interval

C = 3


def label_maps(seed: int, count: int) -> list[Tensor]:
    """The confusion matrix of every image."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        truth = torch.randint(0, C, (7, 11), generator=random)
        wrong = torch.rand(7, 11, generator=random) < 0.5 * torch.rand(1, generator=random)
        predicted = torch.where(wrong, torch.randint(0, C, (7, 11), generator=random), truth)
        found.append(confusion_matrix(truth, predicted, num_classes=C, ignore_index=255))
    return found


def sums_of(matrices: list[Tensor]) -> Tensor:
    rows = [image_rows(one[..., None], winners=range(C), image=n) for n, one in enumerate(matrices)]
    return image_sums(torch.cat(rows), threshold=None, num_classes=C)


def test_the_interval_is_that_of_resampled_confusion_matrices() -> None:
    """The definition, one replicate at a time, with other random draws: the ends agree within their own error."""
    folds = [label_maps(1, 40), label_maps(2, 37)]
    low, high = resampled_interval([sums_of(fold) for fold in folds], seed=5)
    random = np.random.default_rng(0)
    found = []
    for _ in range(REPLICATES):
        total = torch.zeros(C, C, dtype=torch.int64)
        for fold in folds:
            for index in random.integers(0, len(fold), len(fold)):
                total += fold[index]
        found.append(Scores.from_confusion(total).mean_iou)
    wanted = np.quantile(found, [0.025, 0.975])
    whole = Scores.from_confusion(sum(sum(fold, torch.zeros(C, C, dtype=torch.int64)) for fold in folds)).mean_iou  # type: ignore[arg-type]
    assert low < whole < high
    assert abs(low - wanted[0]) < 0.006 and abs(high - wanted[1]) < 0.006


def test_equal_images_have_no_interval() -> None:
    one = label_maps(3, 1)
    low, high = resampled_interval([sums_of(one * 5), sums_of(one * 3)], seed=1)
    assert low == high == Scores.from_confusion(one[0]).mean_iou


def test_score_maps_are_counted_at_their_threshold() -> None:
    random = torch.Generator().manual_seed(4)
    truth, scores = torch.randint(0, C, (7, 11), generator=random), torch.rand(2, 7, 11, generator=random)
    counts = image_counts(scores, classes=[1, 2], truth_HW=truth, num_classes=C, ignore_index=255)
    sums = image_sums(image_rows(counts, winners=[1, 2], image=6), threshold=77 / NUM_BINS, num_classes=C)
    whole = torch.zeros(C, C, NUM_BINS, dtype=torch.int64)
    whole[:, 1:] = counts
    wanted = Scores.from_confusion(confusion_at(whole, threshold_bin=77)).mean_iou
    low, high = resampled_interval([sums, sums], seed=1)
    assert low == high == wanted
