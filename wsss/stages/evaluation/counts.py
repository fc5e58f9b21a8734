"""The counts of `evaluate` per shard, and their file format on disk.

Per split: the total of each fold (a confusion matrix, or one per score bin), the counts of boundary bands per class,
rows per image for the bootstrap, and the number of images; for predictions also a confusion matrix of every subset of
the views.

Shape letters: `C` classes with background, `L` winners, `N` score bins, `P` rows, `V` columns of class sums.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from shards.files import write_bytes
from shards.records import IGNORE, CamRecord, InstanceLabel, Prediction, PseudoLabel, Sample, ScoreRecord, SeedRecord
from wsss.contract.counts import Counts
from wsss.data.images import magnify_scores, upsample
from wsss.ops.bootstrap import ROW_START, image_rows
from wsss.ops.boundary_iou import boundary_counts
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.peak_curve import peak_counts, peak_winners
from wsss.ops.threshold_curve import NUM_BINS, bin_of, image_counts, winners_of

TALLIES = ("images", "missing", "left_out", "unmasked", "unknown")
"""Numbers of images of a split: measured; without a record; excluded by settings; without a mask; with unknown classes,
which have no certain background."""
FOLDS = 2
"""Number of folds; the fold of a sample is its position in its split's list modulo this."""
SCORED = (CamRecord.kind, ScoreRecord.kind)
"""Kinds of records that a background threshold turns into label maps."""
LABELLED = (PseudoLabel.kind, Prediction.kind, InstanceLabel.kind)
"""Kinds of records that are label maps."""


def empty_counts(kind: str, num_classes: int, *, subsets: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Totals of zero for one split."""
    shape: tuple[int, ...] = (num_classes, num_classes)
    if kind in SCORED:
        shape = (num_classes, num_classes, NUM_BINS)
    elif kind == SeedRecord.kind:
        shape = (num_classes, num_classes + 1)  # the last column counts undecided pixels
    folds = {f"fold{fold}": np.zeros(shape, dtype=np.int64) for fold in range(FOLDS)}
    folds |= {_subset_counts(name): np.zeros(shape, dtype=np.int64) for name in subsets}
    tallies = (*TALLIES, "instances") if kind == InstanceLabel.kind else TALLIES
    if kind in LABELLED:
        folds["boundary"] = np.zeros((num_classes, 2), dtype=np.int64)
    return folds | {name: np.zeros((), dtype=np.int64) for name in tallies}


def add_image(total: np.ndarray, record: object, sample: Sample, *, by_peaks: bool = False) -> np.ndarray:
    """Add one image to the total of its fold, in place, and return its rows, i32[P, 2 + V].

    `by_peaks`: count stochastic maps by FickleNet's rule.
    """
    assert sample.mask is not None
    truth_HW, num_classes = torch.from_numpy(sample.mask), len(total)
    if isinstance(record, CamRecord | ScoreRecord):
        classes = record.classes.tolist()
        if by_peaks:
            assert isinstance(record, CamRecord)
            counts_CLN, winners = _peak_counts(record, truth_HW, num_classes), peak_winners(classes)
        else:
            counts_CLN, winners = _score_counts(record, truth_HW, num_classes), winners_of(classes)
        for index, winner in enumerate(winners):
            total[:, winner] += counts_CLN[:, index].numpy()
    elif isinstance(record, SeedRecord):
        total += _seed_counts(record, truth_HW, num_classes)
        return empty_rows(SeedRecord.kind)
    else:
        assert isinstance(record, PseudoLabel | Prediction | InstanceLabel)
        prediction_HW, winners = torch.from_numpy(record.mask), list(range(num_classes))
        matrix_CC = confusion_matrix(truth_HW, prediction_HW, num_classes=num_classes, ignore_index=IGNORE)
        total += matrix_CC.numpy()
        counts_CLN = matrix_CC[..., None]
    return image_rows(counts_CLN, winners=winners, image=sample.position).numpy()


def _score_counts(record: CamRecord | ScoreRecord, truth_HW: torch.Tensor, num_classes: int) -> torch.Tensor:
    """`image_counts` of maps at the size of the mask, i64[C, L, N]."""
    device, size = torch.device("cpu"), (truth_HW.shape[0], truth_HW.shape[1])
    return image_counts(
        upsample(record.maps, size, device=device)
        if isinstance(record, CamRecord)
        else magnify_scores(record.scores, size, device=device),
        classes=record.classes.tolist(),
        truth_HW=truth_HW,
        num_classes=num_classes,
        ignore_index=IGNORE,
    )


def _peak_counts(record: CamRecord, truth_HW: torch.Tensor, num_classes: int) -> torch.Tensor:
    """`peak_counts` of stochastic maps, i64[C, L, N]; as in make_seeds, a pixel has the label of the nearest cell."""
    assert record.peak is not None
    size = (truth_HW.shape[0], truth_HW.shape[1])
    mean_KHW, peak_KHW = (nearest(maps, size) for maps in (record.maps, record.peak))
    return peak_counts(
        mean_KHW,
        peak_KHW=peak_KHW,
        classes=record.classes.tolist(),
        truth_HW=truth_HW,
        num_classes=num_classes,
        ignore_index=IGNORE,
    )


def nearest(maps_Khw: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """f32[K, H, W]: every pixel gets the value of the nearest cell, as the labels of make_seeds' rule "ficklenet"."""
    if not len(maps_Khw):
        return torch.zeros((0, *size))
    return functional.interpolate(torch.from_numpy(maps_Khw).float()[None], size=size, mode="nearest")[0]


def has_unknown_classes(record: object) -> bool:
    """Whether maps come from an image with unknown classes, or a pseudo label has undecided pixels because of them."""
    if isinstance(record, CamRecord | ScoreRecord):
        return bool(record.unknown)
    return isinstance(record, PseudoLabel) and bool((record.mask == IGNORE).any())


def _subset_counts(name: str) -> str:
    return f"subset_{name}"


def add_subsets(
    sums: dict[str, np.ndarray], split: str, record: object, sample: Sample, *, subsets: Sequence[str]
) -> None:
    """Add one image's label maps of the subsets of the views to their confusion matrices, in place."""
    for name in subsets:
        assert isinstance(record, Prediction) and sample.mask is not None
        total = sums[f"{split}.{_subset_counts(name)}"]
        truth_HW, label_HW = torch.from_numpy(sample.mask), torch.from_numpy(record.ablation[name])
        total += confusion_matrix(truth_HW, label_HW, num_classes=len(total), ignore_index=IGNORE).numpy()


def subset_mean_iou(counts: Counts, split: str, name: str) -> float:
    """Mean IoU of a subset of the views."""
    return Scores.from_confusion(torch.tensor(counts.sums[f"{split}.{_subset_counts(name)}"])).mean_iou


def count_boundary(record: object, sample: Sample, *, num_classes: int, width: float) -> np.ndarray:
    """`boundary_counts` of one label map, i64[C, 2]."""
    assert isinstance(record, PseudoLabel | Prediction | InstanceLabel) and sample.mask is not None
    truth_HW, label_HW = torch.from_numpy(sample.mask), torch.from_numpy(record.mask)
    counts = boundary_counts(truth_HW, label_HW, num_classes=num_classes, ignore_index=IGNORE, width=width)
    return counts.numpy()


def _seed_counts(record: SeedRecord, truth_HW: torch.Tensor, num_classes: int) -> np.ndarray:
    label_HW = torch.from_numpy(record.label).long()
    label_HW[label_HW == IGNORE] = num_classes
    seen = truth_HW != IGNORE
    cells = truth_HW[seen].long() * (num_classes + 1) + label_HW[seen]
    return torch.bincount(cells, minlength=num_classes * (num_classes + 1)).view(num_classes, -1).numpy()


def empty_rows(kind: str) -> np.ndarray:
    """An empty array of rows, with the width of the rows for this kind of record."""
    return np.zeros((0, ROW_START + 1 + 2 * (NUM_BINS if kind in SCORED else 1)), dtype=np.int32)


def fold_rows(counts: Counts, split: str) -> list[torch.Tensor]:
    """The rows of a split by fold."""
    rows = counts.rows[split]
    return [torch.from_numpy(rows[rows[:, 0] % FOLDS == fold]) for fold in range(FOLDS)]


def counts_path(folder: Path, split: str) -> Path:
    """Path of the counts by score bin that `evaluate` writes for score maps."""
    return folder / f"threshold_counts.{split}.npz"


def save_threshold_counts(path: Path, folds: list[np.ndarray]) -> None:
    """Save the counts by score bin of both folds, i64[C, C, N], as an npz of the cells that are not zero.

    Few of the possible pairs of 201 classes occur, so a few megabytes hold what would take 166 MB, and are read in
    milliseconds.
    """
    arrays: dict[str, np.ndarray] = {"shape": np.array(folds[0].shape, dtype=np.int64)}
    for fold, counts in enumerate(folds):
        cells = np.flatnonzero(counts)
        arrays |= {f"cells{fold}": cells.astype(np.uint32), f"pixels{fold}": counts.reshape(-1)[cells]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def confusions_at(path: Path, *, threshold: float) -> tuple[torch.Tensor, ...]:
    """The confusion matrix of every fold, i64[C, C], at a background threshold, from `save_threshold_counts`.

    Equal to the result of `make_pseudo_labels` without a CRF followed by `evaluate`; for counts by FickleNet's rule, to
    that of `make_seeds` with this theta, pixels without a seed being background. Raises ValueError for a threshold
    that is not a multiple of 1/256.
    """
    lowest = bin_of(threshold)
    with np.load(path, allow_pickle=False) as arrays:
        num_classes, _, num_bins = arrays["shape"].tolist()
        matrices = []
        for fold in range(FOLDS):
            cells, pixels = arrays[f"cells{fold}"].astype(np.int64), arrays[f"pixels{fold}"]
            pair = cells // num_bins  # truth * C + winner
            pair = np.where(cells % num_bins < lowest, pair - pair % num_classes, pair)  # background wins below
            matrix = np.bincount(pair, weights=pixels, minlength=num_classes * num_classes)  # exact below 2^53 pixels
            matrices.append(torch.from_numpy(matrix.astype(np.int64).reshape(num_classes, num_classes)))
    return tuple(matrices)
