"""Paired bootstrap, randomisation test, Holm and McNemar, against plain loops, exact enumeration and scipy."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from wsss.ops.paired_tests import (
    accuracy_of_sums,
    bootstrap_sums,
    holm,
    iou_of_sums,
    mcnemar,
    percentile_interval,
    randomisation_test,
    total_sums,
)


def rows(*values: tuple[int, ...]) -> Tensor:
    """Rows of (image, class, truth, predicted a, hits a, predicted b, hits b)."""
    return torch.tensor(values, dtype=torch.int64)


SMALL = rows(
    (0, 0, 10, 9, 8, 12, 10),
    (0, 1, 5, 6, 4, 3, 3),
    (1, 0, 7, 7, 5, 9, 6),
    (1, 1, 6, 6, 4, 4, 3),
    (2, 1, 3, 0, 0, 3, 3),
    (2, 2, 0, 3, 0, 0, 0),
)


def by_hand(chosen: Tensor, system: int, class_id: int) -> float:
    truth = predicted = hits = 0
    for row in chosen.tolist():
        if row[1] == class_id:
            truth, predicted, hits = truth + row[2], predicted + row[3 + 2 * system], hits + row[4 + 2 * system]
    union = truth + predicted - hits
    return hits / union if union else math.nan


def test_scores_of_all_images_are_those_done_by_hand() -> None:
    sums_CV = total_sums(SMALL, num_classes=4)
    iou = iou_of_sums(sums_CV[None])[:, 0]
    for system, class_id in itertools.product(range(2), range(4)):
        wanted = by_hand(SMALL, system, class_id)
        assert iou[system, class_id].item() == pytest.approx(wanted, nan_ok=True)
    assert iou[0, 1].item() == 8 / 18 and iou[1, 2].isnan() and iou[0, 2] == 0
    mean_accuracy, pixel_accuracy = accuracy_of_sums(sums_CV[None])
    assert mean_accuracy[:, 0].tolist() == pytest.approx([(13 / 17 + 8 / 14) / 2, (16 / 17 + 9 / 14) / 2])
    assert pixel_accuracy[:, 0].tolist() == pytest.approx([21 / 31, 25 / 31])


def test_a_replicate_is_the_sum_of_the_drawn_images_for_both_systems() -> None:
    found = bootstrap_sums(SMALL, num_classes=3, num_replicates=50, generator=torch.Generator().manual_seed(3))
    random = torch.Generator().manual_seed(3)
    for replicate in found:
        drawn = torch.randint(3, (3,), generator=random).tolist()
        wanted = sum(total_sums(SMALL[SMALL[:, 0] == image], num_classes=3) for image in drawn)
        assert torch.equal(replicate, torch.as_tensor(wanted))


def test_the_order_of_the_rows_changes_nothing() -> None:
    shuffled = SMALL[torch.tensor([3, 1, 5, 0, 2, 4])]
    for measure in (bootstrap_sums, randomisation_test):
        one, other = (
            measure(x, num_classes=3, num_replicates=20, generator=torch.Generator().manual_seed(1))  # type: ignore[operator]
            for x in (SMALL, shuffled)
        )
        one, other = (x if isinstance(x, Tensor) else x[0] for x in (one, other))
        assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


def test_the_test_of_few_images_is_that_of_all_swaps() -> None:
    wanted_C, swaps = [0, 0, 0], list(itertools.product((False, True), repeat=3))
    for class_id in (0, 1):
        observed = by_hand(SMALL, 1, class_id) - by_hand(SMALL, 0, class_id)
        for swap in swaps:
            swapped = SMALL.clone()
            for image in range(3):
                if swap[image]:
                    of_image = SMALL[:, 0] == image
                    swapped[of_image, 3:5], swapped[of_image, 5:7] = SMALL[of_image, 5:7], SMALL[of_image, 3:5]
            difference = by_hand(swapped, 1, class_id) - by_hand(swapped, 0, class_id)
            wanted_C[class_id] += abs(difference) >= abs(observed) - 1e-12
    p_values, _ = randomisation_test(
        SMALL, num_classes=3, num_replicates=20_000, generator=torch.Generator().manual_seed(0)
    )
    assert p_values[:2].tolist() == pytest.approx([count / 8 for count in wanted_C[:2]], abs=0.015)
    assert p_values[2].isnan(), "the second system has no IoU for it"


def drawn_rows(*, gain: float, num_images: int) -> Tensor:
    """Class 1 in every image; the second system has `gain` more hits, with noise."""
    random = torch.Generator().manual_seed(7)
    noise = torch.randint(-9, 10, (num_images, 2), generator=random)
    found = []
    for image, (a, b) in enumerate(noise.tolist()):
        found.append((image, 1, 100, 90, 60 + a, 90, 60 + b + round(gain)))
    return rows(*found)


def test_a_real_difference_is_found_and_chance_is_not() -> None:
    random = torch.Generator().manual_seed(0)
    real, _ = randomisation_test(
        drawn_rows(gain=8, num_images=60), num_classes=2, num_replicates=2000, generator=random
    )
    chance, mean = randomisation_test(
        drawn_rows(gain=0, num_images=60), num_classes=2, num_replicates=2000, generator=random
    )
    assert real[1] < 0.001 and chance[1] > 0.1 and mean == pytest.approx(chance[1].item())
    few, _ = randomisation_test(drawn_rows(gain=30, num_images=3), num_classes=2, num_replicates=4000, generator=random)
    assert few[1] > 0.2, "three images cannot be significant, however large the difference is"


def test_intervals_cover_the_difference_and_shrink_with_the_images() -> None:
    widths = []
    for num_images in (20, 320):
        drawn = drawn_rows(gain=8, num_images=num_images)
        sums = bootstrap_sums(drawn, num_classes=2, num_replicates=800, generator=torch.Generator().manual_seed(2))
        iou = iou_of_sums(sums)
        low, high = percentile_interval(iou[1] - iou[0], level=0.95)[:, 1].tolist()
        observed = iou_of_sums(total_sums(drawn, num_classes=2)[None])
        assert low < (observed[1] - observed[0])[0, 1].item() < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.35)


def test_holm_multiplies_by_the_number_of_tests_that_are_left() -> None:
    assert holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (0, 5), (2, 9), (40, 71), (1500, 1711)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    wanted = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(wanted, rel=1e-9) == mcnemar(second, first)
