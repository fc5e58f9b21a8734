from __future__ import annotations

import numpy as np
import pytest

from shards.balance import class_counts, draws, repeat_factors

CLASSES = [[1], [1, 2], [1], [1], [1, 3], [], [1], [1, 2]]


def test_counts() -> None:
    np.testing.assert_array_equal(class_counts(CLASSES, num_classes=4), [7, 2, 1, 0])


def test_factors_by_hand() -> None:
    # Frequencies 7/8, 2/8, 1/8; threshold 1/2: class 2 gives sqrt(2), class 3 gives 2, class 1 gives 1.
    root = np.sqrt(2)
    factors = repeat_factors(CLASSES, num_classes=3, threshold=0.5)
    np.testing.assert_allclose(factors, [1, root, 1, 1, 2, 1, 1, root])


def test_factors_follow_their_definition() -> None:
    random = np.random.default_rng(0)
    classes = [sorted({int(c) for c in random.integers(1, 8, random.integers(0, 4))}) for _ in range(101)]
    factors = repeat_factors(classes, num_classes=7, threshold=0.3)
    for present, factor in zip(classes, factors, strict=True):
        expected = 1.0
        for c in present:
            share = sum(c in other for other in classes) / len(classes)
            expected = max(expected, (0.3 / share) ** 0.5)
        assert factor == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"it is a share of the images, in \(0, 1\]"):
        repeat_factors(CLASSES, num_classes=3, threshold=threshold)


def test_draws_round_each_factor_up_as_often_as_its_fraction_says() -> None:
    factors = np.array([1.0, 1.25, 2.0, 3.6])
    drawn = np.array([draws(factors, seed=3, epoch=epoch) for epoch in range(4000)])
    assert set(np.unique(drawn[:, 0])) == {1} and set(np.unique(drawn[:, 2])) == {2}
    assert set(np.unique(drawn[:, 1])) == {1, 2} and set(np.unique(drawn[:, 3])) == {3, 4}
    np.testing.assert_allclose(drawn.mean(0), factors, atol=0.03)
    np.testing.assert_array_equal(drawn[7], draws(factors, seed=3, epoch=7))
