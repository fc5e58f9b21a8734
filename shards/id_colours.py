"""Label maps as colours, as ImageNet-S stores them: a class id is R + 256 G, and B is 0.

Source: README.md and data/data.py of LUSSeg/ImageNet-S, commit b2312ba7: the masks, and the predictions that its
evaluator reads.
"""

from __future__ import annotations

import numpy as np

from shards.images import decode_colour_png, image_mode

IGNORED = 1000
"""The id of ignored pixels in ImageNet-S's masks."""
MAX_CLASSES = IGNORED - 1


def decode_id_png(data: bytes) -> np.ndarray:
    """The ids of an RGB PNG of 8 bits per channel, u16[H, W]. Raises ValueError for other files, and if a pixel has
    blue."""
    if (mode := image_mode(data)) != "RGB":
        raise ValueError(f"it has mode {mode}; allowed: RGB, with the class id R + 256 G and B = 0")
    colours_HW3 = decode_colour_png(data)
    if blue := int(colours_HW3[..., 2].max(initial=0)):
        raise ValueError(f"a pixel has B = {blue}; allowed: 0, since a class id is R + 256 G")
    ids_HW: np.ndarray = colours_HW3[..., 0] + colours_HW3[..., 1].astype(np.uint16) * np.uint16(256)
    return ids_HW


def id_colours(label_HW: np.ndarray) -> np.ndarray:
    """The inverse of `decode_id_png` before encoding: u8 or u16[H, W] to u8[H, W, 3]."""
    zero_HW = np.zeros(label_HW.shape, np.uint8)
    wide_HW = label_HW.astype(np.uint16)
    return np.stack([(wide_HW & 255).astype(np.uint8), (wide_HW >> 8).astype(np.uint8), zero_HW], axis=2)
