"""The curve by which a network fits its training labels, and how far its slope has dropped."""

from __future__ import annotations

import numpy as np

LEAST_EPOCHS = 3
"""Measured epochs that a curve is fitted to: as many as it has parameters."""
_FIRST_B, _FIRST_C, _SMALLEST = 1.0, 0.5, 1e-6


def fitted_curve(iou_E: np.ndarray, *, epoch_E: np.ndarray) -> tuple[float, float, float] | None:
    """(a, b, c) of f(t) = a (1 - exp(-b t^c)), least squares over the epochs t = 1, 2, ...; None without convergence.

    IoU f64[E] in [0, 1], epochs i64[E], ascending. 0 <= a <= 1, b >= 0, 0 <= c <= 1, so that the slope never rises.
    Residuals of later epochs have larger weights, from 1 for the first to 10 for the last.

    Source: Liu et al., CVPR 2022 (ADELE); bounds and weights are those of its public code.  Differs: the code
    measures every 100 steps from step 0 on, ours is the mean over each epoch.
    """
    from scipy.optimize import least_squares  # slow to import

    weight_E = 1.0 / np.geomspace(1.0, 0.1, len(iou_E))

    def residuals(parameters: np.ndarray) -> np.ndarray:
        a, b, c = parameters
        found: np.ndarray = weight_E * (a * -np.expm1(-b * epoch_E**c) - iou_E)
        return found

    first = (float(np.clip(iou_E.max(), _SMALLEST, 1 - _SMALLEST)), _FIRST_B, _FIRST_C)
    fit = least_squares(residuals, first, bounds=([0, 0, 0], [1, np.inf, 1]))
    if not fit.success or not np.isfinite(fit.x).all():
        return None
    a, b, c = (float(value) for value in fit.x)
    return a, b, c


def slope_drop(t: float, *, b: float, c: float) -> float:
    """|f'(1) - f'(t)| / |f'(1)| = 1 - t^(c-1) exp(-b (t^c - 1)), in [0, 1] for t >= 1 and 0 <= c <= 1.

    With f'(t) = a b c t^(c-1) exp(-b t^c), a and the other factors cancel.
    """
    return float(1.0 - t ** (c - 1.0) * np.exp(-b * (t**c - 1.0)))


def has_slowed_down(iou_E: np.ndarray, *, limit: float) -> bool:
    """True if the slope of the curve of epochs 1 to E has dropped by more than `limit` at epoch E.

    IoU f64[E], NaN in epochs in which the class was neither labelled nor predicted. False with fewer than 3 measured
    epochs, for a class that is not learned at all (IoU 0), and if the fit does not converge: not yet.

    Source: Liu et al., CVPR 2022 (ADELE).  Differs: see `fitted_curve`.
    """
    epoch_E = np.arange(1, len(iou_E) + 1)
    measured_E = ~np.isnan(iou_E)
    if measured_E.sum() < LEAST_EPOCHS or not iou_E[measured_E].any():
        return False
    fit = fitted_curve(iou_E[measured_E], epoch_E=epoch_E[measured_E])
    return fit is not None and slope_drop(len(iou_E), b=fit[1], c=fit[2]) > limit
