"""Random changes of training pictures, by albumentations; the same (seed, epoch, key) always gives the same change."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator

from shards.records import IGNORE

if TYPE_CHECKING:
    import albumentations as A

# albumentations asks its home page for a newer version at import; a training does not call home.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def _ascending(sizes: tuple[int, int]) -> tuple[int, int]:
    if not 0 < sizes[0] <= sizes[1]:
        raise ValueError("the first number is the smaller one, and at least 1")
    return sizes


SizeRange = Annotated[tuple[int, int], AfterValidator(_ascending)]
"""A setting: the smallest and the largest longer side in pixels."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Resize, pad, crop, flip and colour changes for images of any size.

    An image's longer side becomes a random multiple of 16 within `resize_long`, then a `crop_size` square is cut at
    random; what sticks out of the image is filled with `fill` (the encoder's mean, hence 0 after normalisation),
    and with 255 in the mask.
    """

    crop_size: int
    resize_long: tuple[int, int]
    colour_jitter: float
    """Strength of random brightness, contrast and saturation; 0 leaves colours alone."""
    fill: tuple[int, int, int]

    def compose(self) -> A.Compose:
        """albumentations' pipeline of these settings; it is not thread-safe and holds its own random state."""
        import albumentations as A

        low, high = self.resize_long
        sizes = list(range(low, high + 1, 16))
        side, jitter = self.crop_size, self.colour_jitter
        steps = [
            A.LongestMaxSize(max_size=sizes, area_for_downscale="image"),
            A.HorizontalFlip(p=0.5),
            A.PadIfNeeded(side, side, position="random", border_mode=0, fill=self.fill, fill_mask=IGNORE),
            A.RandomCrop(side, side),
        ]
        if jitter > 0:
            steps.append(A.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 4, p=0.8))
        return A.Compose(steps)


def augment(
    compose: A.Compose,
    image_HW3: np.ndarray,
    *,
    mask_HW: np.ndarray | None,
    seed: int,
    epoch: int,
    key: str,
    occurrence: int = 0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Apply the pipeline with the randomness of (seed, epoch, key): u8 image and u8 mask of the crop's size.

    A mask of several planes, u8[H, W, N], is changed plane by plane in the same way.
    `occurrence`: how often the epoch has drawn the image before.
    """
    again = f" {occurrence}" if occurrence else ""
    digest = hashlib.sha256(f"{seed} {epoch} {key}{again}".encode()).digest()
    compose.set_random_seed(int.from_bytes(digest[:4], "big"))
    if mask_HW is None:
        return compose(image=image_HW3)["image"], None
    if mask_HW.ndim == 3:
        changed = compose(image=image_HW3, masks=[np.ascontiguousarray(plane) for plane in np.moveaxis(mask_HW, 2, 0)])
        return changed["image"], np.stack(changed["masks"], axis=2)
    changed = compose(image=image_HW3, mask=mask_HW)
    return changed["image"], changed["mask"]
