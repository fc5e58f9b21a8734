"""Random augmentation of training images with albumentations, deterministic in (seed, epoch, key)."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator

from shards.label_type import BYTE

if TYPE_CHECKING:
    import albumentations as A

# albumentations checks for a newer version over the network at import; disable that.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def _ascending(sizes: tuple[int, int]) -> tuple[int, int]:
    if not 0 < sizes[0] <= sizes[1]:
        raise ValueError("the first number must be at least 1 and not above the second")
    return sizes


SizeRange = Annotated[tuple[int, int], AfterValidator(_ascending)]
"""A setting: the smallest and the largest longer side in pixels."""


STRONG_SCALE = (0.8, 1.2)
"""Factors by which a strong augmentation scales an image whose longer side has been drawn."""


def fill_colour(mean: tuple[float, ...]) -> tuple[int, int, int]:
    """The colour that becomes (nearly) 0 after normalisation."""
    red, green, blue = (round(255 * channel) for channel in mean)
    return red, green, blue


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Resize, pad, crop, flip and colour changes for images of any size.

    An image's longer side becomes a random multiple of 16 within `resize_long`, then a random `crop_size` square is
    cropped; pixels outside the image are filled with `fill` (the encoder's mean, hence 0 after normalisation), and with
    `fill_mask` in the mask. A strong augmentation rotates and deforms both, without changing the mask's labels.
    """

    crop_size: int
    resize_long: tuple[int, int]
    colour_jitter: float
    """Strength of random brightness, contrast and saturation; 0 for none."""
    fill: tuple[int, int, int]
    fill_mask: int = BYTE.ignore
    """The ignored value of the masks' type (`shards.label_type`)."""
    strong: bool = False
    """Also rotation, elastic deformation, noise and tone changes; replaces `colour_jitter`."""

    def compose(self) -> A.Compose:
        """The albumentations pipeline for these settings; not thread-safe, since it has its own random state."""
        import albumentations as A

        low, high = self.resize_long
        sizes = list(range(low, high + 1, 16))
        side, jitter = self.crop_size, self.colour_jitter
        outside = {"border_mode": 0, "fill": self.fill, "fill_mask": self.fill_mask}
        steps = [
            A.LongestMaxSize(max_size=sizes, area_for_downscale="image"),
            A.HorizontalFlip(p=0.5),
            *(_strong_geometry(outside) if self.strong else ()),
            A.PadIfNeeded(side, side, position="random", **outside),
            A.RandomCrop(side, side),
        ]
        if self.strong:
            steps += _strong_pixels(outside)
        elif jitter > 0:
            steps.append(A.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 4, p=0.8))
        return A.Compose(steps)


def _strong_geometry(outside: dict[str, Any]) -> list[A.BasicTransform]:
    """Scale by 0.8 to 1.2 and rotation by up to 30 degrees, before the crop.

    Source: the "strong" list of NoPeopleAllowed (LID 2020).  Differs: see `_strong_pixels`.
    """
    import albumentations as A

    return [A.Affine(scale=STRONG_SCALE, rotate=(-30, 30), keep_ratio=True, p=0.4, **outside)]


def _strong_pixels(outside: dict[str, Any]) -> list[A.BasicTransform | A.BaseCompose]:
    """The other steps of the list, after the crop: elastic deformation, noise, tone and sharpness, colour.

    Source: the "strong" list of NoPeopleAllowed (LID 2020), with its probabilities.
    Differs: it resizes to a square, where ours crops; its library's elastic deformation is mostly a random affine
    change, which today's version no longer has, so ours displaces pixels by one to two pixels; strengths that it left
    at the library's defaults are today's defaults, except noise, which keeps its variance of 10 to 50 squared levels.
    """
    import albumentations as A

    noise = (10**0.5 / 255, 50**0.5 / 255)
    tone = [A.CLAHE(clip_limit=2), A.Sharpen(), A.RandomBrightnessContrast(), A.RandomGamma(), A.MedianBlur()]
    return [
        A.ElasticTransform(alpha=100, sigma=10, p=0.5, **outside),
        A.GaussNoise(std_range=noise, p=0.5),
        A.OneOf(tone, p=0.5),
        A.OneOf([A.RGBShift(), A.HueSaturationValue()], p=0.5),
    ]


def strong_colours(jitter: float) -> A.Compose:
    """Colour jitter, grey and blur, in this order: a strong view of a crop in which no pixel moves.

    `jitter`: the largest change of brightness, contrast and saturation as a share, and of hue half of it.

    Source: the public code of Yang et al., CVPR 2023 (UniMatch), where `jitter` is 0.5.
    Differs: the library's jitter and blur work on bytes, instead of Pillow's.
    """
    import albumentations as A

    return A.Compose(
        [
            A.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 2, p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=0.5),
        ]
    )


def draw_number(*, seed: int, epoch: int, key: str, occurrence: int) -> int:
    """32 bits that depend on the arguments alone; `occurrence`: how often the epoch has drawn the image before."""
    again = f" {occurrence}" if occurrence else ""
    digest = hashlib.sha256(f"{seed} {epoch} {key}{again}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


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
    """Apply the pipeline with the randomness of (seed, epoch, key): u8 image and u8 or u16 mask of the crop's size.

    A mask of several planes, u8, u16 or f32[H, W, N], is changed plane by plane in the same way.
    `occurrence`: how often the epoch has drawn the image before. The steps draw from one generator in turn:
    albumentations' own `set_random_seed` seeds every step alike, so that flip, size and crop would be correlated.
    """
    number = draw_number(seed=seed, epoch=epoch, key=key, occurrence=occurrence)
    compose.set_random_state(np.random.default_rng(number), random.Random(number))
    if mask_HW is None:
        return compose(image=image_HW3)["image"], None
    if mask_HW.ndim == 3:
        changed = compose(image=image_HW3, masks=[np.ascontiguousarray(plane) for plane in np.moveaxis(mask_HW, 2, 0)])
        return changed["image"], np.stack(changed["masks"], axis=2)
    changed = compose(image=image_HW3, mask=mask_HW)
    return changed["image"], changed["mask"]
