"""Small files of random pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(height: int, width: int, *, seed: int, orientation: int = 1) -> bytes:
    """A JPEG of random pixels; height and width are those stored."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    options = {} if orientation == 1 else {"exif": exif}
    Image.fromarray(pixels).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    """Write a file and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
