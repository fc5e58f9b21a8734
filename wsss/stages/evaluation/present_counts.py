"""The counts of one image in a data set whose label maps have 16 bits: by the classes that the image holds.

With up to 254 classes the arrays of all classes are small, and `counts` fills them directly.

Shape letters: `C` classes with background, `K` of them in the image, `L` winners, `N` score bins, `P` rows, `V` columns
of class sums.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from shards.label_type import WIDE
from shards.records import CamRecord, InstanceLabel, Prediction, PseudoLabel, Sample, ScoreRecord, SeedRecord
from wsss.data.images import label_tensor, nearest, pixel_scores
from wsss.ops.bootstrap import image_rows
from wsss.ops.cell_counts import CellCounts
from wsss.ops.peak_curve import peak_counts, peak_winners
from wsss.ops.present_classes import PresentLabels, present_confusion, present_labels
from wsss.ops.threshold_curve import NUM_BINS, image_counts, winners_of


def add_labels(total_CC: np.ndarray, record: PseudoLabel | Prediction | InstanceLabel, sample: Sample) -> np.ndarray:
    """Add the confusion matrix of one image to the total, in place, and return its rows, i32[P, 2 + V]."""
    found = present_confusion(
        _truth(sample), label_tensor(record.mask), num_classes=len(total_CC), ignore_index=WIDE.ignore
    )
    ids = found.ids.numpy()
    total_CC[np.ix_(ids, ids)] += found.matrix.numpy()
    rows = image_rows(found.matrix[..., None], winners=range(len(ids)), image=sample.position)
    return _with_class_ids(rows, found.ids)


def add_seeds(total: np.ndarray, record: SeedRecord, sample: Sample) -> None:
    """Add one image to pixels by truth and seed, i64[C, C + 1], in place; the last column counts undecided pixels."""
    num_classes = len(total)
    found = present_labels(
        _truth(sample), label_tensor(record.label), num_classes=num_classes, ignore_index=WIDE.ignore
    )
    truth_HW, label_HW = (labels.long() for labels in found.maps)
    size = len(found.ids) + 1
    counts = torch.bincount((truth_HW * size + label_HW).flatten(), minlength=size**2).view(size, size)[:-1]
    rows, columns = found.ids.numpy(), np.append(found.ids.numpy(), num_classes)
    total[np.ix_(rows, columns)] += counts.numpy()


def map_counts(
    record: CamRecord | ScoreRecord, sample: Sample, *, num_classes: int, by_peaks: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of one image of maps, i32[P, 2 + V], and its cells by score bin, i64[n, 2]: cell and pixels.

    `by_peaks`: count stochastic maps by FickleNet's rule.
    """
    classes = record.classes.tolist()
    found = present_labels(_truth(sample), num_classes=num_classes, ignore_index=WIDE.ignore, also=classes)
    own = torch.searchsorted(found.ids, torch.tensor(classes, dtype=torch.int64)).tolist()
    counts_KLN = _counts_of_maps(record, found, own, by_peaks=by_peaks)
    winners = peak_winners(own) if by_peaks else winners_of(own)
    rows = image_rows(counts_KLN, winners=winners, image=sample.position)
    truth, winner, bins = counts_KLN.nonzero(as_tuple=True)
    of_winner = found.ids[torch.tensor(winners)[winner]]
    cells = (found.ids[truth] * num_classes + of_winner) * NUM_BINS + bins
    pixels = counts_KLN[truth, winner, bins]
    return _with_class_ids(rows, found.ids), torch.stack([cells, pixels], dim=1).numpy()


def _counts_of_maps(
    record: CamRecord | ScoreRecord, found: PresentLabels, own: list[int], *, by_peaks: bool
) -> torch.Tensor:
    """i64[K, L, N]; `own`: the maps' classes among those present."""
    (truth_HW,), num_present = found.maps, len(found.ids)
    device, size = torch.device("cpu"), (truth_HW.shape[0], truth_HW.shape[1])
    if by_peaks:
        assert isinstance(record, CamRecord) and record.peak is not None
        mean_KHW, peak_KHW = (nearest(maps, size) for maps in (record.maps, record.peak))
        return peak_counts(
            mean_KHW,
            peak_KHW=peak_KHW,
            classes=own,
            truth_HW=truth_HW,
            num_classes=num_present,
            ignore_index=found.ignore_index,
        )
    return image_counts(
        pixel_scores(record, size, device=device),
        classes=own,
        truth_HW=truth_HW,
        num_classes=num_present,
        ignore_index=found.ignore_index,
    )


def added_cells(parts: Iterable[np.ndarray], *, num_classes: int) -> CellCounts:
    """The sum of cells of images, or of shards."""
    cells = np.concatenate([np.zeros((0, 2), np.int64), *parts])
    columns = torch.from_numpy(cells[:, 0].copy()), torch.from_numpy(cells[:, 1].copy())
    return CellCounts.of(*columns, num_classes=num_classes, num_bins=NUM_BINS)


def cell_rows(counts: CellCounts) -> np.ndarray:
    """Cells as rows that can be appended to those of other shards, i64[n, 2]."""
    return torch.stack([counts.cells, counts.pixels], dim=1).numpy()


def _truth(sample: Sample) -> torch.Tensor:
    assert sample.mask is not None
    return label_tensor(sample.mask)


def _with_class_ids(rows_PV: torch.Tensor, ids_K: torch.Tensor) -> np.ndarray:
    """Rows whose classes were numbered by the classes present."""
    rows_PV[:, 1] = ids_K[rows_PV[:, 1].long()].to(rows_PV.dtype)
    return rows_PV.numpy()
