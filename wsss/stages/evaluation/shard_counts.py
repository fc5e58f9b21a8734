"""The counts of one shard for `evaluate`, added image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from shards.reader import Joined
from shards.records import InstanceLabel, Missing, Sample
from wsss.contract.counts import Counts
from wsss.stages.evaluation.counts import (
    FOLDS,
    LABELLED,
    add_cells,
    add_image,
    add_subsets,
    count_boundary,
    empty_cells,
    empty_counts,
    empty_rows,
    has_cells,
    has_unknown_classes,
    joined_cells,
)
from wsss.stages.evaluation.imagenet_s import NAME as IMAGENET_S
from wsss.stages.evaluation.imagenet_s import add_sizes, empty_row, empty_sizes
from wsss.stages.evaluation.measured_images import EXCLUDED


class ShardTotals:
    """The totals and rows of a shard of one split; those of the other splits are zero and empty, so that all shards
    have the same."""

    def __init__(
        self,
        split: str,
        *,
        splits: tuple[str, ...],
        kind: str,
        num_classes: int,
        subsets: tuple[str, ...],
        by_peaks: bool,
        boundary_width: float,
        protocol: str,
        chosen: Callable[[str], bool] | None = None,
    ) -> None:
        self._split, self._kind, self._num_classes, self._subsets = split, kind, num_classes, subsets
        self._by_peaks, self._width = by_peaks, boundary_width
        self._by_size, self._chosen = protocol == IMAGENET_S, chosen
        self._sums: dict[str, np.ndarray] = {}
        self._rows: dict[str, list[np.ndarray]] = {}
        for one in splits:
            zeros = empty_counts(kind, num_classes, subsets=subsets)
            if self._by_size:
                zeros[IMAGENET_S] = empty_sizes(num_classes)
                self._rows[f"{one}.{IMAGENET_S}"] = [empty_row()]
            if chosen is not None:
                zeros[EXCLUDED] = np.zeros((), dtype=np.int64)
            self._sums |= {f"{one}.{name}": array for name, array in zeros.items()}
            self._rows[one] = [empty_rows(kind)]
        self._splits = splits
        self._cells = empty_cells(kind, num_classes)

    def add(self, joined: Joined | Missing) -> None:
        """Count one image."""
        split = self._split
        if self._chosen is not None and not self._chosen(_key(joined)):
            self._sums[f"{split}.{EXCLUDED}"] += 1
            return
        if isinstance(joined, Missing):
            self._sums[f"{split}.{'left_out' if joined.left_out else 'missing'}"] += 1
            return
        sample, record = cast(Sample, joined["samples"]), joined["records"]
        if sample.mask is None:
            self._sums[f"{split}.unmasked"] += 1
            return
        if has_unknown_classes(record):
            self._sums[f"{split}.unknown"] += 1
            return
        self._sums[f"{split}.images"] += 1
        if has_cells(self._kind, self._num_classes):
            rows = add_cells(self._cells, record, sample, num_classes=self._num_classes, by_peaks=self._by_peaks)
        else:
            fold = self._sums[f"{split}.fold{sample.position % FOLDS}"]
            rows = add_image(fold, record, sample, by_peaks=self._by_peaks)
        self._rows[split].append(rows)
        add_subsets(self._sums, split, record, sample, subsets=self._subsets)
        if self._kind in LABELLED and self._width > 0:
            self._sums[f"{split}.boundary"] += count_boundary(
                record, sample, num_classes=self._num_classes, width=self._width
            )
        if self._by_size:
            self._rows[f"{split}.{IMAGENET_S}"].append(add_sizes(self._sums[f"{split}.{IMAGENET_S}"], record, sample))
        if isinstance(record, InstanceLabel):
            self._sums[f"{split}.instances"] += len(record.classes)

    def counts(self) -> Counts:
        """The totals, and the rows of all images."""
        rows = {name: np.concatenate(found) for name, found in self._rows.items()}
        own = joined_cells(self._cells, num_classes=self._num_classes)
        for one in self._splits:
            rows |= {f"{one}.{name}": cells if one == self._split else cells[:0] for name, cells in own.items()}
        return Counts(sums=self._sums, rows=rows)


def _key(joined: Joined | Missing) -> str:
    return joined.key if isinstance(joined, Missing) else joined["samples"].key
