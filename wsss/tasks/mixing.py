"""Mixed training images: mixup and cutmix, within the batch of one rank.

Shape letters: B batch, C classes, H W pixels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Mixing = Literal["none", "mixup", "cutmix"]


def mix(
    image_B3HW: Tensor, target_BC: Tensor, known_BC: Tensor, *, mixing: Mixing, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Images mixed with a partner from the batch, targets mixed in the same proportion, and the classes known for both.

    One lambda ~ Beta(alpha, alpha) is drawn per batch. mixup: lambda x + (1 - lambda) x'. cutmix: a box of the
    partner with (1 - lambda) of the area, clipped at the border; lambda is then the fraction that remains.

    Source: Zhang et al., ICLR 2018 (mixup); Yun et al., ICCV 2019 (CutMix), section 3.1. Differs: multi-label
    targets; a class is known only if it is known for both images.
    """
    if mixing == "none" or len(image_B3HW) < 2:
        return image_B3HW, target_BC, known_BC
    # torch cannot draw from Beta with a generator; numpy can, and is seeded from it.
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    share = float(draw.beta(alpha, alpha))
    # A non-zero shift, so that no image is its own partner.
    shift = int(torch.randint(1, len(image_B3HW), (), generator=generator))
    partner = torch.arange(len(image_B3HW), device=image_B3HW.device).roll(shift)
    if mixing == "mixup":
        mixed = share * image_B3HW + (1 - share) * image_B3HW[partner]
    else:
        rows, columns, share = _box(image_B3HW.shape[-2:], share=share, draw=draw)
        mixed = image_B3HW.clone()
        mixed[..., rows, columns] = image_B3HW[partner][..., rows, columns]
    target = share * target_BC + (1 - share) * target_BC[partner]
    return mixed, target, known_BC * known_BC[partner]


def _box(size: torch.Size, *, share: float, draw: np.random.Generator) -> tuple[slice, slice, float]:
    """A box of (1 - share) of the image around a random centre, and the fraction that remains outside."""
    height, width = size
    half_height, half_width = (round(length * (1 - share) ** 0.5 / 2) for length in (height, width))
    y, x = int(draw.integers(height)), int(draw.integers(width))
    rows = slice(max(0, y - half_height), min(height, y + half_height))
    columns = slice(max(0, x - half_width), min(width, x + half_width))
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    return rows, columns, 1 - covered / (height * width)
