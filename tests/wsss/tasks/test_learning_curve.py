"""The fitted curve and the drop of its slope, on drawn curves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wsss.tasks.learning_curve import fitted_curve, has_slowed_down, slope_drop


def curve(num_epochs: int, a: float, b: float, c: float) -> np.ndarray:
    t = np.arange(1, num_epochs + 1)
    found: np.ndarray = a * (1 - np.exp(-b * t**c))
    return found


@pytest.mark.parametrize("wanted", [(0.8, 0.5, 0.9), (0.6, 1.2, 0.4), (0.95, 0.2, 0.7)])
def test_a_curve_of_the_family_is_found_again(wanted: tuple[float, float, float]) -> None:
    iou = curve(12, *wanted)
    fit = fitted_curve(iou, epoch_E=np.arange(1, 13))
    assert fit is not None
    np.testing.assert_allclose(curve(12, *fit), iou, atol=1e-4)


def test_the_drop_of_the_slope_by_differences() -> None:
    a, b, c, small = 0.7, 0.6, 0.5, 1e-6

    def slope(t: float) -> float:
        values = [a * (1 - np.exp(-b * x**c)) for x in (t - small, t + small)]
        return float(values[1] - values[0]) / (2 * small)

    for t in (1.0, 2.0, 5.0, 9.0):
        wanted = abs(slope(1.0) - slope(t)) / abs(slope(1.0))
        assert slope_drop(t, b=b, c=c) == pytest.approx(wanted, abs=1e-6)
    assert slope_drop(1.0, b=b, c=c) == 0


def test_a_class_has_slowed_down_only_after_its_slope_dropped() -> None:
    """f'(t) / f'(1) = exp(-(t - 1) / 2) for c near 1, below 0.1 for the first time at t = 5.6."""
    iou = curve(12, 0.8, 0.5, 0.999)
    decisions = [has_slowed_down(iou[:number], limit=0.9) for number in range(1, 13)]
    assert decisions == [False] * 5 + [True] * 7
    assert [has_slowed_down(iou[:number], limit=0.5) for number in range(1, 6)] == [False, False, True, True, True]


def test_a_curve_that_still_rises_has_not_slowed_down() -> None:
    assert not any(has_slowed_down(0.06 * np.arange(1, number + 1), limit=0.9) for number in range(1, 13))


def test_too_few_epochs_and_a_class_that_is_not_learned_are_not_decided_about() -> None:
    fast = curve(12, 0.8, 3.0, 0.9)
    assert not has_slowed_down(fast[:2], limit=0.1) and has_slowed_down(fast[:3], limit=0.1)
    assert not has_slowed_down(np.zeros(9), limit=0.1)
    assert not has_slowed_down(np.full(9, np.nan), limit=0.1)
    sparse = np.where(np.isin(np.arange(12), (3, 7)), fast, np.nan)
    assert not has_slowed_down(sparse, limit=0.1), "measured in two epochs"
    sparse[11] = fast[11]
    assert has_slowed_down(sparse, limit=0.1), "in three: epochs 4, 8 and 12"


def test_noise_changes_no_decision_far_from_the_limit() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 12)
    assert has_slowed_down(curve(12, 0.8, 0.5, 0.999) + noise, limit=0.9)
    assert not has_slowed_down(curve(12, 0.8, 0.05, 0.999) + noise, limit=0.9)


def test_without_convergence_there_is_no_decision_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.optimize

    iou = curve(12, 0.8, 0.5, 0.999)

    def gives_up(*args: Any, **settings: Any) -> Any:
        return SimpleNamespace(success=False, x=np.array([0.8, 0.5, 0.9]))

    assert has_slowed_down(iou, limit=0.9)
    monkeypatch.setattr(scipy.optimize, "least_squares", gives_up)
    assert not has_slowed_down(iou, limit=0.9)
