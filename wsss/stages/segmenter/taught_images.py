"""The training sets of a segmenter with a teacher: what limits the teacher's labels, and a second view of each crop."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from shards.records import Sample
from wsss.contract.fit import Draw
from wsss.data.augment import augment, draw_number, strong_colours
from wsss.data.images import pixels
from wsss.stages.segmenter.images import PseudoLabelledImages, absent_classes

_SHARES, _RATIOS = (0.02, 0.4), (0.3, 1 / 0.3)
"""CutMix in the public code of UniMatch: range of a box's share of the crop, and of its height divided by its width."""


class TaughtImages(PseudoLabelledImages):
    """Images with pseudo labels, and `absent` bool[C], the classes that are known to be absent."""

    def tensors(
        self, draw: Draw, sample: Sample, image_HW3: np.ndarray, changed: np.ndarray
    ) -> dict[str, torch.Tensor]:
        own = {"absent": absent_classes(sample, num_classes=self.num_classes)}
        return super().tensors(draw, sample, image_HW3, changed) | own

    def blank(self) -> dict[str, torch.Tensor]:
        return super().blank() | {"absent": torch.zeros(self.num_classes, dtype=torch.bool)}


class TwoViewImages(TaughtImages):
    """Also `strong` u8[H, W, 3], the crop in other colours; `inside` bool[H, W], false for padding; and `cut` bool[H,
    W], the box that CutMix replaces, in which nothing is true if the draw has none."""

    def __init__(self, *args: Any, jitter: float, cutmix_probability: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._jitter, self._probability = jitter, cutmix_probability

    @cached_property
    def _strong(self) -> Any:
        # Created on first use: each loader process needs its own.
        return strong_colours(self._jitter)

    def planes(self, draw: Draw, sample: Sample) -> np.ndarray:
        """The planes of the labels, and a last one that is 0 inside the image; padding has the ignored label."""
        planes = super().planes(draw, sample)
        return np.dstack([planes, np.zeros(sample.size, planes.dtype)])

    def tensors(
        self, draw: Draw, sample: Sample, image_HW3: np.ndarray, changed: np.ndarray
    ) -> dict[str, torch.Tensor]:
        of_draw: dict[str, Any] = {"seed": self.seed, "epoch": draw.epoch, "occurrence": draw.occurrence}
        strong, _ = augment(self._strong, image_HW3, mask_HW=None, key=f"{sample.key} strong", **of_draw)
        generator = np.random.default_rng(draw_number(key=f"{sample.key} cutmix", **of_draw))
        cut = drawn_box(generator, side=self.stage.crop_size, probability=self._probability)
        own = {
            "strong": pixels(strong),
            "inside": torch.from_numpy(changed[..., -1] == 0),
            "cut": torch.from_numpy(cut),
        }
        return super().tensors(draw, sample, image_HW3, changed[..., :-1]) | own

    def blank(self) -> dict[str, torch.Tensor]:
        side = self.stage.crop_size
        nowhere = torch.zeros((side, side), dtype=torch.bool)
        strong = torch.zeros((side, side, 3), dtype=torch.uint8)
        return super().blank() | {"strong": strong, "inside": nowhere, "cut": nowhere.clone()}


def drawn_box(generator: np.random.Generator, *, side: int, probability: float) -> np.ndarray:
    """bool[side, side], true in a box of random size and place; true nowhere with 1 - `probability`.

    Source: the public code of Yang et al., CVPR 2023 (UniMatch).  Differs: a box longer than the crop is clipped,
    instead of drawn again until it lies inside.
    """
    box = np.zeros((side, side), dtype=bool)
    if generator.random() >= probability:
        return box
    share, ratio = generator.uniform(*_SHARES), generator.uniform(*_RATIOS)
    height, width = (min(side, round(side * (share * factor) ** 0.5)) for factor in (ratio, 1 / ratio))
    top, left = (int(generator.integers(side - length + 1)) for length in (height, width))
    box[top : top + height, left : left + width] = True
    return box
