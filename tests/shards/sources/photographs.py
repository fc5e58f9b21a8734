"""Drawn JPEGs that are as costly to decode as photographs: 500 x 375 pixels in about 110 KB.

A picture is a mixture of two fields whose spectrum falls as that of photographs does, with grain of its own.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

NUM_FIELDS, QUALITY = 12, 90


@cache
def _fields(height: int, width: int) -> np.ndarray:
    """f32[NUM_FIELDS, H, W, 3], amplitude falling with frequency, mean 0 and deviation 1."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    falling = 1 / np.maximum(frequency, 1 / max(height, width))
    white = random.normal(size=(NUM_FIELDS, 3, *falling.shape)) + 1j * random.normal(
        size=(NUM_FIELDS, 3, *falling.shape)
    )
    fields = np.fft.irfft2(white * falling, s=(height, width))
    # The channels of a photograph go together.
    fields = 0.8 * fields[:, :1] + 0.2 * fields
    fields = (fields - fields.mean((2, 3), keepdims=True)) / fields.std((2, 3), keepdims=True)
    return fields.transpose(0, 2, 3, 1).astype(np.float32)


def photograph(number: int, *, height: int = 375, width: int = 500) -> bytes:
    """A JPEG, the same for the same number."""
    random, fields = np.random.default_rng([1, number]), _fields(height, width)
    first, second = (fields[random.integers(NUM_FIELDS)] for _ in range(2))
    mixed = np.roll(first, random.integers(0, 400, 2), (0, 1)) + np.roll(second, random.integers(0, 400, 2), (0, 1))
    grain = random.standard_normal((height, width, 1), dtype=np.float32)
    pixels = np.clip(random.uniform(90, 160) + 32 * mixed + 6 * grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()


def photographs(folder: Path, num_images: int, *, num_folders: int = 8) -> list[Path]:
    """Files FOLDER/class_C/NUMBER.jpg; those that are there already are taken as they are."""
    paths = [folder / f"class_{number % num_folders}" / f"{number:06d}.jpg" for number in range(num_images)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(photograph(number))
    return paths
