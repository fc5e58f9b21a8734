"""The counts of `evaluate` per shard, and their file format on disk.

Per split: the total of each fold (a confusion matrix, or one per score bin), the counts of boundary bands per class,
rows per image for the bootstrap, and the number of images; for predictions also a confusion matrix of every subset of
the views. Label maps of 16 bits (more than 254 classes) are counted by the classes of each image (`present_counts`),
and the totals by score bin are lists of cells, appended as rows.

Shape letters: `C` classes with background, `L` winners, `N` score bins, `P` rows, `V` columns of class sums.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from shards.files import write_bytes
from shards.label_type import BYTE, WIDE, ignore_of, label_type
from shards.records import CamRecord, InstanceLabel, Prediction, PseudoLabel, Sample, ScoreRecord, SeedRecord
from wsss.contract.counts import Counts
from wsss.data.images import label_tensor, nearest, pixel_scores
from wsss.ops.bootstrap import ROW_START, image_rows
from wsss.ops.boundary_iou import boundary_counts
from wsss.ops.cell_counts import CellCounts
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.peak_curve import peak_counts, peak_winners
from wsss.ops.present_classes import present_labels
from wsss.ops.threshold_curve import NUM_BINS, bin_of, image_counts, winners_of
from wsss.stages.evaluation.present_counts import add_labels, add_seeds, added_cells, cell_rows, map_counts

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
    """Totals of zero for one split; those by score bin of many classes are rows instead (`empty_cells`)."""
    shape: tuple[int, ...] = (num_classes, num_classes)
    if kind in SCORED:
        shape = (num_classes, num_classes, NUM_BINS)
    elif kind == SeedRecord.kind:
        shape = (num_classes, num_classes + 1)  # the last column counts undecided pixels
    totals = range(0 if has_cells(kind, num_classes) else FOLDS)
    folds = {f"fold{fold}": np.zeros(shape, dtype=np.int64) for fold in totals}
    folds |= {_subset_counts(name): np.zeros(shape, dtype=np.int64) for name in subsets}
    tallies = (*TALLIES, "instances") if kind == InstanceLabel.kind else TALLIES
    if kind in LABELLED:
        folds["boundary"] = np.zeros((num_classes, 2), dtype=np.int64)
    return folds | {name: np.zeros((), dtype=np.int64) for name in tallies}


def has_cells(kind: str, num_classes: int) -> bool:
    """Whether totals by score bin are held as cells; `num_classes` counts the background."""
    return kind in SCORED and label_type(num_classes - 1) == WIDE


def empty_cells(kind: str, num_classes: int) -> dict[str, list[np.ndarray]]:
    """The cells of no image, of every fold."""
    return {f"cells{fold}": [] for fold in range(FOLDS if has_cells(kind, num_classes) else 0)}


def add_cells(
    cells: dict[str, list[np.ndarray]], record: object, sample: Sample, *, num_classes: int, by_peaks: bool
) -> np.ndarray:
    """Append the cells of one image of maps to those of its fold, and return its rows, i32[P, 2 + V]."""
    assert isinstance(record, CamRecord | ScoreRecord)
    _require_type(sample.mask, record.key, num_classes=num_classes)
    rows, found = map_counts(record, sample, num_classes=num_classes, by_peaks=by_peaks)
    cells[f"cells{sample.position % FOLDS}"].append(found)
    return rows


def joined_cells(cells: dict[str, list[np.ndarray]], *, num_classes: int) -> dict[str, np.ndarray]:
    """The cells of a shard, i64[n, 2] of every fold: those of its images, added."""
    return {name: cell_rows(added_cells(parts, num_classes=num_classes)) for name, parts in cells.items()}


def fold_totals(counts: Counts, split: str, kind: str, num_classes: int) -> list[torch.Tensor | CellCounts]:
    """The totals of both folds."""
    if has_cells(kind, num_classes):
        parts = [counts.rows[f"{split}.cells{fold}"] for fold in range(FOLDS)]
        return [added_cells([part], num_classes=num_classes) for part in parts]
    # Copies: an array that came through Ray is read-only.
    return [torch.tensor(counts.sums[f"{split}.fold{fold}"]) for fold in range(FOLDS)]


def _require_type(label_HW: np.ndarray | None, key: str, *, num_classes: int) -> None:
    """Raise ValueError if a label map is not of the data set's type; `num_classes` counts the background."""
    assert label_HW is not None
    num_classes -= 1
    label_type(num_classes).require(label_HW, name=f"the label map of {key!r}", num_classes=num_classes)


def add_image(total: np.ndarray, record: object, sample: Sample, *, by_peaks: bool = False) -> np.ndarray:
    """Add one image to the total of its fold, in place, and return its rows, i32[P, 2 + V].

    `by_peaks`: count stochastic maps by FickleNet's rule.
    """
    num_classes = len(total)
    _require_type(sample.mask, sample.key, num_classes=num_classes)
    if isinstance(record, SeedRecord | PseudoLabel | Prediction):
        label_HW = record.label if isinstance(record, SeedRecord) else record.mask
        _require_type(label_HW, sample.key, num_classes=num_classes)
    if label_type(num_classes - 1) == WIDE:
        if isinstance(record, SeedRecord):
            add_seeds(total, record, sample)
            return empty_rows(SeedRecord.kind)
        assert isinstance(record, PseudoLabel | Prediction | InstanceLabel)
        return add_labels(total, record, sample)
    truth_HW = torch.from_numpy(sample.mask)
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
        matrix_CC = confusion_matrix(truth_HW, prediction_HW, num_classes=num_classes, ignore_index=BYTE.ignore)
        total += matrix_CC.numpy()
        counts_CLN = matrix_CC[..., None]
    return image_rows(counts_CLN, winners=winners, image=sample.position).numpy()


def _score_counts(record: CamRecord | ScoreRecord, truth_HW: torch.Tensor, num_classes: int) -> torch.Tensor:
    """`image_counts` of maps at the size of the mask, i64[C, L, N]."""
    device, size = torch.device("cpu"), (truth_HW.shape[0], truth_HW.shape[1])
    return image_counts(
        pixel_scores(record, size, device=device),
        classes=record.classes.tolist(),
        truth_HW=truth_HW,
        num_classes=num_classes,
        ignore_index=BYTE.ignore,
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
        ignore_index=BYTE.ignore,
    )


def has_unknown_classes(record: object) -> bool:
    """Whether maps come from an image with unknown classes, or a pseudo label has undecided pixels because of them."""
    if isinstance(record, CamRecord | ScoreRecord):
        return bool(record.unknown)
    return isinstance(record, PseudoLabel) and bool((record.mask == ignore_of(record.mask)).any())


def _subset_counts(name: str) -> str:
    return f"subset_{name}"


def add_subsets(
    sums: dict[str, np.ndarray], split: str, record: object, sample: Sample, *, subsets: Sequence[str]
) -> None:
    """Add one image's label maps of the subsets of the views to their confusion matrices, in place."""
    for name in subsets:
        assert isinstance(record, Prediction) and sample.mask is not None
        total = sums[f"{split}.{_subset_counts(name)}"]
        add_image(total, Prediction(key=record.key, mask=record.ablation[name], confidence=record.confidence), sample)


def subset_mean_iou(counts: Counts, split: str, name: str) -> float:
    """Mean IoU of a subset of the views."""
    return Scores.from_confusion(torch.tensor(counts.sums[f"{split}.{_subset_counts(name)}"])).mean_iou


def count_boundary(record: object, sample: Sample, *, num_classes: int, width: float) -> np.ndarray:
    """`boundary_counts` of one label map, i64[C, 2]."""
    assert isinstance(record, PseudoLabel | Prediction | InstanceLabel) and sample.mask is not None
    truth_HW, label_HW = label_tensor(sample.mask), label_tensor(record.mask)
    ignored = ignore_of(sample.mask)
    if label_type(num_classes - 1) == BYTE:
        counts = boundary_counts(truth_HW, label_HW, num_classes=num_classes, ignore_index=ignored, width=width)
        return counts.numpy()
    found = present_labels(truth_HW, label_HW, num_classes=num_classes, ignore_index=ignored)
    total, num_present = np.zeros((num_classes, 2), dtype=np.int64), len(found.ids)
    truth_HW, label_HW = found.maps
    total[found.ids.numpy()] = boundary_counts(
        truth_HW, label_HW, num_classes=num_present, ignore_index=found.ignore_index, width=width
    ).numpy()
    return total


def _seed_counts(record: SeedRecord, truth_HW: torch.Tensor, num_classes: int) -> np.ndarray:
    label_HW = torch.from_numpy(record.label).long()
    label_HW[label_HW == BYTE.ignore] = num_classes
    seen = truth_HW != BYTE.ignore
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


def save_threshold_counts(path: Path, folds: Sequence[np.ndarray | CellCounts]) -> None:
    """Save the counts by score bin of both folds, i64[C, C, N], as an npz of the cells that are not zero.

    Few of the possible pairs of 201 classes occur, so a few megabytes hold what would take 166 MB, and are read in
    milliseconds.
    """
    one = folds[0]
    shape = (one.num_classes, one.num_classes, one.num_bins) if isinstance(one, CellCounts) else one.shape
    arrays: dict[str, np.ndarray] = {"shape": np.array(shape, dtype=np.int64)}
    held = np.uint32 if np.prod(arrays["shape"]) <= np.iinfo(np.uint32).max else np.int64  # up to 4,095 classes
    for fold, counts in enumerate(folds):
        if isinstance(counts, CellCounts):
            cells, pixels = counts.cells.numpy(), counts.pixels.numpy()
        else:
            cells = np.flatnonzero(counts)
            pixels = counts.reshape(-1)[cells]
        arrays |= {f"cells{fold}": cells.astype(held), f"pixels{fold}": pixels}
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
