"""How often each sample is drawn in an epoch: pure, deterministic in (seed, epoch).

A sample of several classes is drawn as often as the class among them with the largest factor. Rare classes keep all
their draws, and a class that co-occurs with most others (person in LID) stays more frequent than the rest.
`expected_counts` gives the resulting number of images per class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Literal

import numpy as np

Balance = Literal["none", "down", "up", "down_up", "repeat"]


def class_counts(classes: Sequence[Sequence[int]], *, num_classes: int) -> np.ndarray:
    """Images per foreground class, i64[num_classes]; column c - 1 counts class c."""
    flat, _ = _flat(classes)
    return np.bincount(flat - 1, minlength=num_classes)


def _flat(classes: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The classes of all samples concatenated, i64, and the number of classes of each sample, i64[len(classes)]."""
    lengths = np.fromiter(map(len, classes), np.int64, len(classes))
    return np.fromiter(chain.from_iterable(classes), np.int64, int(lengths.sum())), lengths


def _largest(classes: Sequence[Sequence[int]], per_class: np.ndarray, *, default: float) -> np.ndarray:
    """f64[len(classes)]: the largest value among each sample's classes, `default` for a sample without classes."""
    flat, lengths = _flat(classes)
    found = np.full(len(classes), default, dtype=np.float64)
    if len(flat):
        starts = (np.cumsum(lengths) - lengths)[lengths > 0]
        found[lengths > 0] = np.maximum.reduceat(per_class[flat - 1], starts)
    return found


def repeat_factors(classes: Sequence[Sequence[int]], *, num_classes: int, threshold: float) -> np.ndarray:
    """LVIS repeat factors: r(image) = max over its classes of max(1, sqrt(threshold / f_c)), f_c the class's frequency.

    f64[len(classes)], all >= 1; images without a class get 1. Source: Gupta et al., LVIS, CVPR 2019, appendix B.2.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the repeat threshold is {threshold}; it must be a fraction of the images, in (0, 1]")
    frequency = class_counts(classes, num_classes=num_classes) / max(len(classes), 1)
    with np.errstate(divide="ignore"):
        per_class = np.maximum(1.0, np.sqrt(threshold / frequency))
    return _largest(classes, per_class, default=1.0)


def balance_factors(
    classes: Sequence[Sequence[int]], *, num_classes: int, balance: Balance, threshold: float, limit: float
) -> np.ndarray:
    """Average draws of each sample per epoch, f64[n] >= 0, at most `limit`. n_c is the number of images of class c.

    | `balance` | factor of class c |
    |---|---|
    | `none` | 1 |
    | `down` | min(1, n_min / n_c): every class about as often as the rarest (LID 2020's third place) |
    | `up` | n_max / n_c: every class about as often as the most frequent |
    | `down_up` | n_med / n_c, n_med the median: rare classes more often, frequent ones less |
    | `repeat` | LVIS repeat factors with `threshold` |

    A sample gets the largest factor among its classes. Samples without a class are treated as one more class with a
    factor of at most 1. Classes that no sample shows are excluded from the minimum and the median.
    """
    if balance == "none":
        return np.ones(len(classes))
    if balance == "repeat":
        return np.minimum(repeat_factors(classes, num_classes=num_classes, threshold=threshold), limit)
    counts = class_counts(classes, num_classes=num_classes).astype(np.float64)
    shown = counts[counts > 0]
    if len(shown) == 0:
        return np.ones(len(classes))
    centre: dict[str, Callable[[np.ndarray], np.floating]] = {"down": np.min, "up": np.max, "down_up": np.median}
    goal = float(centre[balance](shown))
    per_class = goal / np.maximum(counts, 1.0)
    num_empty = sum(not present for present in classes)
    of_empty = min(1.0, goal / max(num_empty, 1))
    return np.minimum(_largest(classes, per_class, default=of_empty), limit)


def balanced_subset(
    classes: Sequence[Sequence[int]], *, ranks: np.ndarray, num_classes: int, images_per_class: int
) -> np.ndarray:
    """bool[n]: a fixed part of n samples that shows every class in about `images_per_class` of them.

    Classes are filled one after the other, the one with the fewest samples first, until each is shown by
    `images_per_class` chosen samples or by all that it has; samples of equal use are taken by ascending `ranks`
    (u64[n]). A sample counts for all its classes, so a class that occurs together with many others can be shown more
    often. Samples without a class are not chosen.
    """
    flat, lengths = _flat(classes)
    of_pair = np.repeat(np.arange(len(classes)), lengths)
    by_class = np.lexsort((of_pair, ranks[of_pair], flat))
    counts = class_counts(classes, num_classes=num_classes)
    ends = np.cumsum(counts)
    chosen = np.zeros(len(classes), dtype=bool)
    for column in np.argsort(counts, kind="stable").tolist():
        showing = of_pair[by_class[ends[column] - counts[column] : ends[column]]]
        already = chosen[showing]
        chosen[showing[~already][: max(0, images_per_class - int(already.sum()))]] = True
    return chosen


def expected_counts(classes: Sequence[Sequence[int]], *, factors: np.ndarray, num_classes: int) -> np.ndarray:
    """Expected number of images of each class in an epoch, f64[num_classes]."""
    flat, lengths = _flat(classes)
    return np.bincount(flat - 1, weights=np.repeat(factors, lengths), minlength=num_classes)


def positive_weights(counts: np.ndarray, *, power: float, limit: float) -> np.ndarray:
    """Loss weights of the classes, f64[C] in [1, limit]: (n_max / n_c) ** power; 1 for a class that no image shows.

    `counts`: images of each class, whole numbers or averages over epochs.
    """
    largest = counts.max(initial=0.0)
    weights = (largest / np.where(counts > 0, counts, 1.0)) ** power
    return np.where(counts > 0, np.clip(weights, 1.0, limit), 1.0)


def draws(factors: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Integer draws per sample, i64[n]: the fraction of each factor is rounded at random, independently per epoch."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, 1])))
    whole = np.floor(factors)
    return (whole + (generator.random(len(factors)) < factors - whole)).astype(np.int64)
