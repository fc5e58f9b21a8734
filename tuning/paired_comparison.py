"""Compares the label maps of two results image by image: with the masks where there are some, and with each other.

Shape letters: `C` classes with background, `P` rows of one image and class, `R` replicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from tuning.pixel_counts import LABELS, Cells, ImageCounts
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

LEVEL = 0.95
SIGNIFICANT = 0.05
"""A class is significantly better or worse if its p-value, corrected for the number of classes, is at most this."""
INTERVAL_REPLICATES, TEST_REPLICATES = 2000, 10_000
"""10,000: the smallest p-value, 1/10,001, times 201 classes is still below `SIGNIFICANT`."""
RIGHT = 0.5
"""McNemar's test: an image is right if its mean IoU is at least this."""
NUM_MOVED = 10


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A score of both sides; None where it is undefined."""

    name: str
    a: float | None
    b: float | None
    low: float | None = None
    high: float | None = None
    """The interval of the difference b - a."""
    p_value: float | None = None
    """Of the classes, corrected for their number."""
    images: int | None = None
    """Images that show the class, in the truth or in a prediction."""

    @property
    def difference(self) -> float | None:
        """b - a, or None if a side has no score."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def is_significant(self) -> bool:
        return self.p_value is not None and self.p_value <= SIGNIFICANT


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Pixels of a true class that are predicted as another one, as shares of the true class's pixels.

    Without a truth, `truth` is the class of the first result, and `b` the share that the second one calls
    `prediction`."""

    truth: str
    prediction: str
    a: float
    b: float
    pixels: int
    """Pixels by which the two differ."""


@dataclass(frozen=True, kw_only=True)
class ChangedImage:
    """One image: its mean IoU on both sides, None without a truth, and the share of its pixels with other labels."""

    key: str
    a: float | None
    b: float | None
    disagreement: float

    @property
    def change(self) -> float:
        """What images are ranked by."""
        return self.disagreement if self.a is None or self.b is None else abs(self.b - self.a)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the label maps agree with each other, whatever the truth is."""

    pixels: float
    """Share of the pixels with the same label."""
    kappa: float
    """Cohen's kappa: 0 if the agreement is that of labels drawn independently."""
    mean_iou: float
    interval: tuple[float, float]
    """Of the mean IoU of one with the other."""
    classes: tuple[Difference, ...]
    """a, b: shares of the pixels that either side gives to the class; low, high and p-value are not used."""
    class_iou: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that was measured of two results over the same images."""

    num_images: int
    overall: tuple[Difference, ...] = ()
    """Empty without a truth, as all but `agreement`, `moved` and `images`."""
    classes: tuple[Difference, ...] = ()
    only_a: int = 0
    only_b: int = 0
    """Images that only one of them gets right."""
    mcnemar: float = 1.0
    better: int = 0
    worse: int = 0
    """Images whose mean IoU is higher and lower in the second result."""
    sign_test: float = 1.0
    agreement: Agreement
    moved: tuple[Moved, ...]
    images: tuple[ChangedImage, ...] = field(repr=False)
    """Most changed first."""

    @property
    def has_truth(self) -> bool:
        return bool(self.overall)

    def significant(self, *, better: bool) -> list[str]:
        """The classes that are significantly better, or worse, in the second result."""
        return [one.name for one in self.classes if one.is_significant and ((one.difference or 0) > 0) == better]


def compare_counts(counts: Sequence[ImageCounts], *, place: int, names: Sequence[str], seed: int = 0) -> Comparison:
    """Compare the first result with number `place` (from 1). `names`: of all classes, the background first."""
    with _one_thread():
        return _compared(counts, place=place, names=names, random=torch.Generator().manual_seed(seed))


@contextmanager
def _one_thread() -> Iterator[None]:
    """For many small sums: torch's threads would wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _compared(
    counts: Sequence[ImageCounts], *, place: int, names: Sequence[str], random: torch.Generator
) -> Comparison:
    agreement_rows = rows_of([(one.against_first[place - 1],) for one in counts])
    matrix_CC = confusion_of([one.against_first[place - 1] for one in counts], num_classes=len(names))
    agreement = _agreement(agreement_rows, matrix_CC, names=names, random=random)
    disagreement = [_off_diagonal(one.against_first[place - 1]) for one in counts]
    if not counts or not counts[0].against_truth:
        shares = zip((one.key for one in counts), disagreement, strict=True)
        images = [ChangedImage(key=key, a=None, b=None, disagreement=share) for key, share in shares]
        moved = _moved(torch.zeros_like(matrix_CC), matrix_CC, names=names, of_a=matrix_CC)
        return Comparison(num_images=len(counts), agreement=agreement, moved=moved, images=_most_changed(images))
    pairs = [(one.against_truth[0], one.against_truth[place]) for one in counts]
    rows_PV = rows_of(pairs)
    scores = [image_scores_of(rows_PV, system=system, num_images=len(counts)) for system in range(2)]
    right = [[score >= RIGHT for score in side] for side in scores]
    only_a = sum(a and not b for a, b in zip(*right, strict=True))
    only_b = sum(b and not a for a, b in zip(*right, strict=True))
    better = sum(b > a + 1e-12 for a, b in zip(*scores, strict=True))
    worse = sum(a > b + 1e-12 for a, b in zip(*scores, strict=True))
    matrices = [confusion_of([pair[side] for pair in pairs], num_classes=len(names)) for side in range(2)]
    overall, classes = _differences(rows_PV, names=names, random=random)
    images = [
        ChangedImage(key=one.key, a=a, b=b, disagreement=share)
        for one, a, b, share in zip(counts, *scores, disagreement, strict=True)
    ]
    return Comparison(
        num_images=len(counts),
        overall=overall,
        classes=classes,
        only_a=only_a,
        only_b=only_b,
        mcnemar=mcnemar(only_a, only_b),
        better=better,
        worse=worse,
        sign_test=mcnemar(worse, better),
        agreement=agreement,
        moved=_moved(matrices[0], matrices[1], names=names, of_a=matrices[0]),
        images=_most_changed(images),
    )


def rows_of(images: Sequence[Sequence[Cells]]) -> torch.Tensor:
    """The rows that `wsss.ops.paired_tests` reads, i64[P, 3 + 2S], from the cells of each image and system."""
    num_systems = len(images[0]) if images else 0
    keys, columns, amounts = [], [], []
    for system in range(num_systems):
        sizes = [len(of_image[system].cells) for of_image in images]
        image = np.repeat(np.arange(len(images), dtype=np.int64), sizes)
        cells = np.concatenate([of_image[system].cells for of_image in images]).astype(np.int64)
        truth, label = cells // LABELS, cells % LABELS
        pixels = np.concatenate([of_image[system].pixels for of_image in images]).astype(np.int64)
        parts = [(label, pixels, 1 + 2 * system), (truth, np.where(truth == label, pixels, 0), 2 + 2 * system)]
        # The pixels of the truth are the same for every system.
        for classes, values, column in ([(truth, pixels, 0)] if system == 0 else []) + parts:
            keys.append(image * LABELS + classes)
            amounts.append(values)
            columns.append(np.full(len(values), column))
    if not keys:
        return torch.zeros(0, 3 + 2 * num_systems, dtype=torch.int64)
    found, place = np.unique(np.concatenate(keys), return_inverse=True)
    width = 1 + 2 * num_systems
    flat = place.astype(np.int64) * width + np.concatenate(columns)
    sums = np.bincount(flat, weights=np.concatenate(amounts), minlength=len(found) * width)  # exact below 2^53
    rows = np.column_stack([found // LABELS, found % LABELS, sums.astype(np.int64).reshape(-1, width)])
    return torch.from_numpy(rows)


def confusion_of(images: Sequence[Cells], *, num_classes: int) -> torch.Tensor:
    """The confusion matrix over all images, i64[C, C]."""
    total = np.zeros((num_classes, num_classes), dtype=np.int64)
    for one in images:
        truth, label = one.labels
        inside = (truth < num_classes) & (label < num_classes)
        total[truth[inside], label[inside]] += one.pixels[inside]
    return torch.from_numpy(total)


def image_scores_of(rows_PV: torch.Tensor, *, system: int, num_images: int) -> list[float]:
    """Mean IoU of every image over the classes in its truth or prediction; 0 for an image without counted pixels."""
    truth, predicted, hits = (rows_PV[:, column].double() for column in (2, 3 + 2 * system, 4 + 2 * system))
    union = truth + predicted - hits
    here = union > 0
    total, number = torch.zeros(num_images, dtype=torch.float64), torch.zeros(num_images, dtype=torch.float64)
    total.index_add_(0, rows_PV[here, 0], hits[here] / union[here])
    number.index_add_(0, rows_PV[here, 0], torch.ones(int(here.sum()), dtype=torch.float64))
    scores: list[float] = (total / number.clamp_min(1)).tolist()
    return scores


def class_intervals(rows_PV: torch.Tensor, *, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU of every class of one result, float64 [C], and its interval, [2, C]."""
    with _one_thread():
        return _class_intervals(rows_PV, num_classes=num_classes, random=torch.Generator().manual_seed(seed))


def _class_intervals(
    rows_PV: torch.Tensor, *, num_classes: int, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    sums = bootstrap_sums(rows_PV, num_classes=num_classes, num_replicates=INTERVAL_REPLICATES, generator=random)
    own = iou_of_sums(total_sums(rows_PV, num_classes=num_classes)[None])[0, 0]
    return own, percentile_interval(iou_of_sums(sums)[0], level=LEVEL)


def _differences(
    rows_PV: torch.Tensor, *, names: Sequence[str], random: torch.Generator
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Of the overall scores, and of the classes; largest differences first, classes without a difference last."""
    num_classes = len(names)
    own_CV = total_sums(rows_PV, num_classes=num_classes)[None]
    drawn = bootstrap_sums(rows_PV, num_classes=num_classes, num_replicates=INTERVAL_REPLICATES, generator=random)
    p_values_C, p_mean = randomisation_test(
        rows_PV, num_classes=num_classes, num_replicates=TEST_REPLICATES, generator=random
    )
    iou, iou_drawn = iou_of_sums(own_CV), iou_of_sums(drawn)
    (mean_acc, pixel_acc), (mean_acc_drawn, pixel_acc_drawn) = accuracy_of_sums(own_CV), accuracy_of_sums(drawn)
    scores = {
        "mean IoU": (iou.nanmean(2), iou_drawn.nanmean(2), p_mean),
        "mean accuracy": (mean_acc, mean_acc_drawn, None),
        "pixel accuracy": (pixel_acc, pixel_acc_drawn, None),
    }
    overall = []
    for name, (own, replicates, p_value) in scores.items():
        low, high = percentile_interval((replicates[1] - replicates[0])[:, None], level=LEVEL)[:, 0].tolist()
        overall.append(
            Difference(name=name, a=float(own[0, 0]), b=float(own[1, 0]), low=low, high=high, p_value=p_value)
        )
    bounds = percentile_interval(iou_drawn[1] - iou_drawn[0], level=LEVEL)
    corrected = holm(p_values_C.tolist())
    images_C = torch.bincount(rows_PV[:, 1], minlength=num_classes).tolist()
    values = zip(names, *iou[:, 0].tolist(), *bounds.tolist(), corrected, images_C, strict=True)
    classes = [
        Difference(
            name=name, a=_known(a), b=_known(b), low=_known(low), high=_known(high), p_value=_known(p), images=images
        )
        for name, a, b, low, high, p, images in values
    ]
    classes.sort(key=lambda one: -1.0 if one.difference is None else abs(one.difference), reverse=True)
    return tuple(overall), tuple(classes)


def _agreement(
    rows_PV: torch.Tensor, matrix_CC: torch.Tensor, *, names: Sequence[str], random: torch.Generator
) -> Agreement:
    num_classes, total = len(names), max(int(matrix_CC.sum()), 1)
    iou_C = iou_of_sums(total_sums(rows_PV, num_classes=num_classes)[None])[0, 0]
    drawn = bootstrap_sums(rows_PV, num_classes=num_classes, num_replicates=INTERVAL_REPLICATES, generator=random)
    low, high = percentile_interval(iou_of_sums(drawn)[0].nanmean(1, keepdim=True), level=LEVEL)[:, 0].tolist()
    share_a, share_b = matrix_CC.sum(1).double() / total, matrix_CC.sum(0).double() / total
    same, chance = float(matrix_CC.diagonal().sum() / total), float((share_a * share_b).sum())
    shares = zip(names, share_a.tolist(), share_b.tolist(), strict=True)
    return Agreement(
        pixels=same,
        kappa=(same - chance) / (1 - chance) if chance < 1 else 1.0,
        mean_iou=float(iou_C.nanmean()),
        interval=(low, high),
        classes=tuple(Difference(name=name, a=a, b=b) for name, a, b in shares),
        class_iou=tuple(_known(value) for value in iou_C.tolist()),
    )


def _moved(a_CC: torch.Tensor, b_CC: torch.Tensor, *, names: Sequence[str], of_a: torch.Tensor) -> tuple[Moved, ...]:
    """The cells off the diagonal whose share of the true class changed most."""
    in_truth = of_a.sum(1, keepdim=True).clamp_min(1).double()
    share_a, share_b = a_CC / in_truth, b_CC / in_truth
    change = (share_b - share_a).abs().fill_diagonal_(0)
    order = change.flatten().argsort(descending=True, stable=True)[:NUM_MOVED].tolist()
    cells = [divmod(place, len(names)) for place in order]
    return tuple(
        Moved(
            truth=names[t],
            prediction=names[p],
            a=float(share_a[t, p]),
            b=float(share_b[t, p]),
            pixels=int(b_CC[t, p] - a_CC[t, p]),
        )
        for t, p in cells
        if change[t, p] > 0
    )


def _off_diagonal(one: Cells) -> float:
    first, second = one.labels
    same = first == second
    return float(one.pixels[~same].sum() / max(one.pixels.sum(), 1))


def _most_changed(images: Sequence[ChangedImage]) -> tuple[ChangedImage, ...]:
    return tuple(sorted(images, key=lambda one: (-one.change, one.key)))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
