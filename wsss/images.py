"""Images as tensors.

Shape letters: `H W` pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def to_tensor(image_HW3: np.ndarray, *, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """u8[H, W, 3] to f32[3, H, W]: (x / 255 - mean) / std per channel; mean and std are of the range [0, 1]."""
    x_3HW = torch.from_numpy(np.ascontiguousarray(image_HW3.transpose(2, 0, 1))).float().div_(255)
    mean_311, std_311 = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    return x_3HW.sub_(mean_311).div_(std_311)


def fill_colour(mean: tuple[float, ...]) -> tuple[int, int, int]:
    """The colour that is (nearly) 0 after normalisation."""
    red, green, blue = (round(255 * channel) for channel in mean)
    return red, green, blue


def resize_image(x_B3HW: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
    """Resize normalised images: bicubic, low-passed where it shrinks (as PIL does, which irn uses)."""
    if tuple(x_B3HW.shape[-2:]) == size:
        return x_B3HW
    return F.interpolate(x_B3HW, size=size, mode="bicubic", align_corners=False, antialias=True)


def long_side_size(size: tuple[int, int], *, long_side: int) -> tuple[int, int]:
    """(H, W) scaled so that the longer one is `long_side`, each at least 1."""
    factor = long_side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
