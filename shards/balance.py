"""How often each sample is drawn in an epoch: pure, deterministic in (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def class_counts(classes: Sequence[Sequence[int]], *, num_classes: int) -> np.ndarray:
    """Images per foreground class, i64[num_classes]; column c - 1 counts class c."""
    counts = np.zeros(num_classes, dtype=np.int64)
    for present in classes:
        for c in present:
            counts[c - 1] += 1
    return counts


def repeat_factors(classes: Sequence[Sequence[int]], *, num_classes: int, threshold: float) -> np.ndarray:
    """LVIS repeat factors: r(image) = max over its classes of max(1, sqrt(threshold / f_c)), f_c the class's frequency.

    f64[len(classes)], all >= 1; images without a class get 1. Source: Gupta et al., LVIS, CVPR 2019, section 3.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the repeat threshold is {threshold}; it is a share of the images, in (0, 1]")
    frequency = class_counts(classes, num_classes=num_classes) / max(len(classes), 1)
    with np.errstate(divide="ignore"):
        per_class = np.maximum(1.0, np.sqrt(threshold / frequency))
    return np.array([max((per_class[c - 1] for c in present), default=1.0) for present in classes])


def draws(factors: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Whole draws per sample, i64[n]: the fraction of each factor is rounded at random, anew in every epoch."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, 1])))
    whole = np.floor(factors)
    return (whole + (generator.random(len(factors)) < factors - whole)).astype(np.int64)
