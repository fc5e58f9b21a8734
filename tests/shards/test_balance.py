from __future__ import annotations

import numpy as np
import pytest

from shards.balance import (
    balance_factors,
    balanced_subset,
    class_counts,
    draws,
    expected_counts,
    positive_weights,
    repeat_factors,
)

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
    with pytest.raises(ValueError, match=r"it must be a fraction of the images, in \(0, 1\]"):
        repeat_factors(CLASSES, num_classes=3, threshold=threshold)


def test_draws_round_each_factor_up_as_often_as_its_fraction_says() -> None:
    factors = np.array([1.0, 1.25, 2.0, 3.6])
    drawn = np.array([draws(factors, seed=3, epoch=epoch) for epoch in range(4000)])
    assert set(np.unique(drawn[:, 0])) == {1} and set(np.unique(drawn[:, 2])) == {2}
    assert set(np.unique(drawn[:, 1])) == {1, 2} and set(np.unique(drawn[:, 3])) == {3, 4}
    np.testing.assert_allclose(drawn.mean(0), factors, atol=0.03)
    np.testing.assert_array_equal(drawn[7], draws(factors, seed=3, epoch=7))


def factors_of(balance: str, *, limit: float = 100.0) -> np.ndarray:
    return balance_factors(CLASSES, num_classes=4, balance=balance, threshold=0.5, limit=limit)  # type: ignore[arg-type]


def test_balance_by_hand() -> None:
    # Class 1 in 7 images, class 2 in 2, class 3 in 1, class 4 in none; one image has no class.
    np.testing.assert_allclose(factors_of("none"), np.ones(8))
    np.testing.assert_allclose(factors_of("down"), [1 / 7, 1 / 2, 1 / 7, 1 / 7, 1, 1, 1 / 7, 1 / 2])
    np.testing.assert_allclose(factors_of("up"), [1, 3.5, 1, 1, 7, 1, 1, 3.5])
    np.testing.assert_allclose(factors_of("down_up"), [2 / 7, 1, 2 / 7, 2 / 7, 2, 1, 2 / 7, 1])
    np.testing.assert_allclose(factors_of("up", limit=2.5), [1, 2.5, 1, 1, 2.5, 1, 1, 2.5])


def random_classes(num_images: int = 4000) -> list[list[int]]:
    """Class 1 stands in most images, class c of the others in about a share 0.3 / c."""
    random = np.random.default_rng(3)
    shares = [0.7, *(0.3 / c for c in range(2, 9))]
    return [[c + 1 for c, share in enumerate(shares) if random.random() < share] for _ in range(num_images)]


def test_balanced_epochs_are_flatter_and_expected_counts_are_what_is_drawn() -> None:
    classes = random_classes()
    counts = class_counts(classes, num_classes=8)
    spread = {}
    for balance in ("none", "down", "up", "down_up"):
        factors = balance_factors(classes, num_classes=8, balance=balance, threshold=1.0, limit=100.0)  # type: ignore[arg-type]
        expected = expected_counts(classes, factors=factors, num_classes=8)
        epochs = [draws(factors, seed=5, epoch=epoch) for epoch in range(20)]
        drawn = np.mean(
            [[sum(t for t, p in zip(times, classes, strict=True) if c in p) for c in range(1, 9)] for times in epochs],
            0,
        )
        np.testing.assert_allclose(drawn, expected, rtol=0.05)
        spread[balance] = expected.max() / expected.min()
    assert all(spread[balance] < spread["none"] / 2 for balance in ("down", "up", "down_up"))
    down = balance_factors(classes, num_classes=8, balance="down", threshold=1.0, limit=100.0)
    assert down.max() == 1.0 and down.sum() < len(classes) / 2
    assert (expected_counts(classes, factors=down, num_classes=8) >= counts.min() - 1e-9).all()


def test_positive_weights() -> None:
    counts = np.array([100, 25, 1, 0])
    np.testing.assert_allclose(positive_weights(counts, power=0.5, limit=8), [1, 2, 8, 1])
    np.testing.assert_allclose(positive_weights(counts, power=1.0, limit=50), [1, 4, 50, 1])


def test_a_balanced_subset_by_hand() -> None:
    # Class 3 is the rarest: sample 4, which shows class 1 too. Class 2 takes sample 7 before sample 1, by rank. Class 1
    # is then shown three times already, more than asked for.
    ranks = np.array([0, 6, 1, 2, 5, 3, 4, 0], np.uint64)
    chosen = balanced_subset(CLASSES, ranks=ranks, num_classes=4, images_per_class=1)
    np.testing.assert_array_equal(np.flatnonzero(chosen), [4, 7])
    chosen = balanced_subset(CLASSES, ranks=ranks, num_classes=4, images_per_class=4)
    np.testing.assert_array_equal(np.flatnonzero(chosen), [0, 1, 4, 7])
    everything = balanced_subset(CLASSES, ranks=ranks, num_classes=4, images_per_class=100)
    np.testing.assert_array_equal(np.flatnonzero(everything), [0, 1, 2, 3, 4, 6, 7])  # 5 shows no class


def test_a_balanced_subset_follows_its_definition() -> None:
    random = np.random.default_rng(1)
    shares = 0.5 ** np.arange(1, 8)
    classes = [[c for c in range(1, 8) if random.random() < shares[c - 1]] for _ in range(503)]
    ranks = random.permutation(503).astype(np.uint64)
    counts = class_counts(classes, num_classes=7)
    for goal in (1, 5, 23, 61):
        chosen = balanced_subset(classes, ranks=ranks, num_classes=7, images_per_class=goal)
        expected: set[int] = set()
        for c in sorted(range(1, 8), key=lambda c: counts[c - 1]):
            showing = sorted((n for n, present in enumerate(classes) if c in present), key=lambda n: ranks[n])
            for n in showing:
                if sum(c in classes[m] for m in expected) >= goal:
                    break
                expected.add(n)
        assert set(np.flatnonzero(chosen).tolist()) == expected
        shown = class_counts([classes[n] for n in sorted(expected)], num_classes=7)
        assert (shown >= np.minimum(counts, goal)).all()
        # Another order of the samples chooses the same ones.
        order = random.permutation(503)
        again = balanced_subset([classes[n] for n in order], ranks=ranks[order], num_classes=7, images_per_class=goal)
        np.testing.assert_array_equal(again, chosen[order])
    assert not balanced_subset([[], []], ranks=ranks[:2], num_classes=7, images_per_class=3).any()
