"""The training set of an affinity network.

Shape letters: `h w` the network's grid, of stride 4 (IRNet) or 8 (AffinityNet).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from shards.records import SeedRecord
from wsss.contract.fit import Draw
from wsss.data.augment import Augmentation, fill_colour
from wsss.data.augmented_records import AugmentedRecords
from wsss.data.images import pixels
from wsss.data.joined_records import JoinedRecords
from wsss.stages.affinity.training import AffinityTraining


class SeededImages(AugmentedRecords):
    """Augmented images with seeds on the network's grid."""

    def __init__(self, stage: AffinityTraining, records: JoinedRecords, *, seed: int) -> None:
        fill = fill_colour(stage.mean)
        augmentation = Augmentation(
            crop_size=stage.crop_size,
            resize_long=stage.resize_long,
            colour_jitter=0.0,
            fill=fill,
            strong=stage.augmentation == "strong",
        )
        super().__init__(records, augmentation, seed=seed)
        self._stage = stage

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        seeds = cast(SeedRecord, self.records.record(draw.index, "seeds"))
        image, label = self.augmented(draw, sample, mask_HW=seeds.label)
        assert label is not None
        stride = self._stage.grid_stride
        middle = stride // 2  # as irn: nearest-neighbour downsampling by 4 takes pixel 4 i + 2
        label_hw = torch.from_numpy(label[middle::stride, middle::stride].astype(np.int64))
        return {
            "key": sample.key,
            "image": pixels(image),
            "label": label_hw,
        }
