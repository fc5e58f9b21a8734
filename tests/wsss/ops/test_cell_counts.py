from __future__ import annotations

import torch

from wsss.ops.cell_counts import CellCounts
from wsss.ops.threshold_curve import (
    NUM_BINS,
    activation_curves,
    class_sums,
    confusion_at,
    curve,
    two_fold_threshold,
)

C = 7


def dense(seed: int, *, signed: bool = False) -> torch.Tensor:
    """Counts int64 [C,C,N], mostly zero, without pixels that the background wins at a score."""
    random = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 50, (C, C, NUM_BINS), generator=random)
    counts[torch.rand(counts.shape, generator=random) < 0.9] = 0
    if signed:
        counts[2, 3, 17], counts[2, 3, 40] = -5, 9
    return counts


def sparse(counts: torch.Tensor) -> CellCounts:
    """The same counts as cells in another order, each in two parts."""
    cells = counts.flatten().nonzero()[:, 0].flip(0)
    pixels = counts.flatten()[cells]
    halves = pixels // 2
    return CellCounts.of(
        torch.cat([cells, cells]), torch.cat([halves, pixels - halves]), num_classes=C, num_bins=NUM_BINS
    )


def test_by_hand() -> None:
    cells = torch.tensor([(1 * 3 + 2) * 4 + 3, 5, (1 * 3 + 2) * 4 + 3, 7])
    made = CellCounts.of(cells, torch.tensor([2, 1, 5, 0]), num_classes=3, num_bins=4)
    assert made.cells.tolist() == [5, 23] and made.pixels.tolist() == [1, 7], "empty cells are dropped"
    assert [part.tolist() for part in made.split()] == [[0, 1], [1, 2], [1, 3]]
    assert made.confusion_at(2).tolist() == [[1, 0, 0], [0, 0, 7], [0, 0, 0]]


def test_everything_read_from_cells_is_what_the_whole_array_gives() -> None:
    for signed in (False, True):
        a, b = dense(1, signed=signed), dense(2)
        cells_a, cells_b = sparse(a), sparse(b)
        assert torch.equal(cells_a.class_sums(), class_sums(a, winners=range(C)))
        assert torch.equal((cells_a + cells_b).class_sums(), class_sums(a + b, winners=range(C)))
        for threshold_bin in (0, 1, 100, 255):
            assert torch.equal(
                confusion_at(cells_a, threshold_bin=threshold_bin), confusion_at(a, threshold_bin=threshold_bin)
            )
        assert torch.equal(curve(cells_a), curve(a))
        for found, wanted in zip(activation_curves(cells_a), activation_curves(a), strict=True):
            assert torch.equal(found, wanted)
        found, wanted = two_fold_threshold(cells_a, cells_b), two_fold_threshold(a, b)
        assert (found.threshold_from_a, found.threshold_from_b) == (wanted.threshold_from_a, wanted.threshold_from_b)
        assert torch.equal(found.confusion, wanted.confusion)
