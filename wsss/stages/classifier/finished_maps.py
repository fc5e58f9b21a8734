"""What is done to an image's normalised maps before they are stored.

Shape letters: `K` classes, `h w` strided pixels.
"""

from __future__ import annotations

import torch

from wsss.ops.flatten_peaks import flatten_peaks
from wsss.ops.relative_maps import relative_to_others
from wsss.stages.classifier.cam_settings import CamSettings


def finished(maps_Khw: torch.Tensor, *, settings: CamSettings) -> torch.Tensor:
    """Maps [K,h,w] in [0, 1] of all classes of an image, first flattened, then relative to each other, if so set."""
    if settings.flatten:
        maps_Khw = flatten_peaks(maps_Khw, scale=settings.flatten, threshold=settings.flatten_above)
    return relative_to_others(maps_Khw) if settings.relative_to_others else maps_Khw
