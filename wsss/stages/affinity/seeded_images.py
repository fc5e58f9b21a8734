"""The training set of an affinity network.

Shape letters: `h w` the network's grid, of stride 4 (IRNet) or 8 (AffinityNet).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from shards.label_type import label_type
from shards.records import Sample, SeedRecord
from wsss.contract.fit import Draw
from wsss.data.augment import Augmentation, fill_colour
from wsss.data.augmented_records import AugmentedRecords
from wsss.data.images import pixels
from wsss.data.joined_records import JoinedRecords
from wsss.ops.seeds import pooled_exponent_seeds
from wsss.stages.affinity.training import AffinityTraining


class SeededImages(AugmentedRecords):
    """Augmented images with seeds on the network's grid.

    Source: irn's public code; with pooled scores, psa's. Differs: psa does not resize images, so `resize_long` must be
    their longer side (VOC: 500, 500) for its crops; scores are resized by nearest neighbours, as labels are. They are
    stored as float16, which changed no cell in `tests/parity/test_stages.py`.
    """

    def __init__(self, stage: AffinityTraining, records: JoinedRecords, *, seed: int, num_classes: int) -> None:
        """`num_classes` does not count the background."""
        fill, self._labels = fill_colour(stage.mean), label_type(num_classes)
        augmentation = Augmentation(
            crop_size=stage.crop_size,
            resize_long=stage.resize_long,
            colour_jitter=stage.colour_jitter,
            fill=fill,
            fill_mask=self._labels.ignore,
            strong=stage.augmentation == "strong",
        )
        super().__init__(records, augmentation, seed=seed)
        self._stage = stage

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        seeds = cast(SeedRecord, self.records.record(draw.index, "seeds"))
        if self._stage.pools_scores and seeds.scores is not None:
            image, label_hw = self._pooled(draw, sample, seeds)
        else:
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

    def _pooled(self, draw: Draw, sample: Sample, seeds: SeedRecord) -> tuple[np.ndarray, torch.Tensor]:
        """The crop of the image, and the label i64[h, w] of the cropped scores."""
        assert seeds.scores is not None and seeds.classes is not None
        planes_HWN = seeds.scores.reshape(-1, *seeds.label.shape).transpose(1, 2, 0).astype(np.float32)
        image, crop_HWN = self.augmented(draw, sample, mask_HW=planes_HWN)
        assert crop_HWN is not None
        crop_HWN[crop_HWN == self._labels.ignore] = 0.0  # beyond the image, where the augmentation puts this
        much_LHW, little_LHW = torch.from_numpy(crop_HWN.transpose(2, 0, 1).copy()).chunk(2)
        label_hw = pooled_exponent_seeds(
            much_LHW,
            little_LHW=little_LHW,
            classes=seeds.classes.tolist(),
            stride=self._stage.grid_stride,
            ignore_index=self._labels.ignore,
        )
        return image, label_hw.long()
