"""Base of the training sets: records in an epoch's order, with images augmented per draw."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from shards.records import Sample
from wsss.contract.fit import Draw
from wsss.data.augment import Augmentation, augment
from wsss.data.joined_records import JoinedRecords


class AugmentedRecords:
    """A training set over joined records; a subclass defines the examples in `example`."""

    def __init__(self, records: JoinedRecords, augmentation: Augmentation, *, seed: int) -> None:
        self.records, self._augmentation, self.seed = records, augmentation, seed

    @cached_property
    def _compose(self) -> Any:
        # Created on first use: each loader process needs its own.
        return self._augmentation.compose()

    def __len__(self) -> int:
        return len(self.records)

    def order(self, epoch: int) -> np.ndarray:
        return self.records.order(epoch)

    def num_draws(self, epoch: int) -> int:
        return self.records.num_draws(epoch)

    def name_of(self, index: int) -> str:
        return self.records.name_of(index)

    def augmented(
        self, draw: Draw, sample: Sample, *, mask_HW: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The crop of one draw, u8[H, W, 3], and of the mask, [H, W] or [H, W, N] of u8, u16 or f32; the same for the
        same draw."""
        return augment(
            self._compose,
            sample.image,
            mask_HW=mask_HW,
            seed=self.seed,
            epoch=draw.epoch,
            key=sample.key,
            occurrence=draw.occurrence,
        )
