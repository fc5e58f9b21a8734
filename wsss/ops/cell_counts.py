"""Counts by truth, winner and score bin of which only the cells that are not zero are held.

With 920 classes all cells take 1.7 GB; an image of two classes fills about a thousand of them.

Shape letters: C classes with background, N bins, V = 1 + 2N columns of class sums, M cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CellCounts:
    """A sparse int64 [C,C,N], as the functions of `threshold_curve` read it in place of the dense one."""

    cells: Tensor
    """int64 [M], ascending, without duplicates: (truth * C + winner) * N + bin."""
    pixels: Tensor
    """int64 [M]."""
    num_classes: int
    """C."""
    num_bins: int
    """N."""

    @classmethod
    def of(cls, cells: Tensor, pixels: Tensor, *, num_classes: int, num_bins: int) -> CellCounts:
        """From cells in any order and with duplicates, whose pixels are added."""
        found, place = cells.unique(return_inverse=True)
        sums = torch.zeros(len(found), dtype=torch.int64).index_add_(0, place, pixels)
        return cls(cells=found[sums != 0], pixels=sums[sums != 0], num_classes=num_classes, num_bins=num_bins)

    def __add__(self, other: CellCounts) -> CellCounts:
        return CellCounts.of(
            torch.cat([self.cells, other.cells]),
            torch.cat([self.pixels, other.pixels]),
            num_classes=self.num_classes,
            num_bins=self.num_bins,
        )

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Truth, winner and bin of every cell, int64 [M] each."""
        pair, bins = self.cells // self.num_bins, self.cells % self.num_bins
        return pair // self.num_classes, pair % self.num_classes, bins

    def class_sums(self) -> Tensor:
        """As `threshold_curve.class_sums` of the dense counts with all classes as winners, int64 [C,V]."""
        truth, winner, bins = self.split()
        sums_CV = torch.zeros((self.num_classes, 1 + 2 * self.num_bins), dtype=torch.int64)
        zeros, won = torch.zeros_like(bins), winner > 0
        own = won & ((winner == truth) | (truth == 0))
        sums_CV.index_put_((truth, zeros), self.pixels, accumulate=True)
        sums_CV.index_put_((truth[own], 1 + bins[own]), self.pixels[own], accumulate=True)
        sums_CV.index_put_((winner[won], 1 + self.num_bins + bins[won]), self.pixels[won], accumulate=True)
        return sums_CV

    def confusion_at(self, threshold_bin: int) -> Tensor:
        """As `threshold_curve.confusion_at`, int64 [C,C]."""
        truth, winner, bins = self.split()
        shown = torch.where(bins >= threshold_bin, winner, 0)
        confusion_CC = torch.zeros((self.num_classes, self.num_classes), dtype=torch.int64)
        return confusion_CC.index_put_((truth, shown), self.pixels, accumulate=True)
