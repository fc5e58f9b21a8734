from __future__ import annotations

import itertools

import pytest
import torch

from tests.wsss.ops.test_label_free import counted, images_of, mean_iou_of
from wsss.ops.class_thresholds import best_class_bins
from wsss.ops.label_free import at_class_bins
from wsss.ops.threshold_curve import NUM_BINS, curve


def test_two_classes_by_hand() -> None:
    """Class 1 is right from bin 3 on, class 2 from bin 5 on; one threshold for both is wrong for one of them."""
    counts = torch.zeros(3, 3, 8, dtype=torch.int64)
    counts[1, 1, 3:], counts[0, 1, :3] = 7, 7
    counts[2, 2, 5:], counts[0, 2, :5] = 7, 7
    assert best_class_bins(counts)[1:].tolist() == [3, 5]
    assert at_class_bins(counts, bins_C=best_class_bins(counts)) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_no_single_change_improves_it_and_label_maps_agree(seed: int) -> None:
    images = images_of(seed)
    counts, _ = counted(images)
    bins = best_class_bins(counts)
    reached = at_class_bins(counts, bins_C=bins)
    assert reached >= float(curve(counts).max())
    for c, other in itertools.product(range(1, len(bins)), range(0, NUM_BINS, 3)):
        changed = bins.clone()
        changed[c] = other
        assert at_class_bins(counts, bins_C=changed) <= reached + 1e-12
    assert mean_iou_of(images, lambda _, c: int(bins[c]) / NUM_BINS) == pytest.approx(reached, abs=1e-12)


def test_all_pairs_of_bins_of_two_classes() -> None:
    random = torch.Generator().manual_seed(3)
    counts = torch.randint(0, 9, (3, 3, 7), generator=random)
    counts[:, 0] = 0
    counts[1, 1, 4:] += 60
    counts[2, 2, 2:] += 60
    pairs = itertools.product(range(7), range(7))
    best = max(at_class_bins(counts, bins_C=torch.tensor([0, *pair])) for pair in pairs)
    assert at_class_bins(counts, bins_C=best_class_bins(counts)) == best


def test_a_class_that_wins_nothing_keeps_the_threshold_of_all() -> None:
    counts = torch.zeros(3, 3, 8, dtype=torch.int64)
    counts[1, 1, 4:], counts[0, 1, :4], counts[2, 1, 1] = 5, 5, 2
    assert best_class_bins(counts).tolist() == [4, 4, 4]
