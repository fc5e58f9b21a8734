"""Turns annotations in stored pixel coordinates upright, for images with an EXIF orientation."""

from __future__ import annotations

import numpy as np

from shards.records import Box

_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""EXIF orientation -> (swap rows and columns, then reverse rows, reverse columns)."""


def stored_size(size: tuple[int, int], *, orientation: int) -> tuple[int, int]:
    """(H, W) of the stored pixels of an image with upright size `size`. `orientation`: EXIF orientation, 1 to 8."""
    return size[::-1] if _TURNS[orientation][0] else size


def upright(array_HW: np.ndarray, *, orientation: int) -> np.ndarray:
    """Turn a stored array [H, W] upright according to the EXIF orientation: [H, W] or [W, H]."""
    swapped, rows, columns = _TURNS[orientation]
    turned = array_HW.T if swapped else array_HW
    return np.ascontiguousarray(turned[:: -1 if rows else 1, :: -1 if columns else 1])


def upright_box(box: Box, *, orientation: int, size: tuple[int, int]) -> Box:
    """Turn a box in stored pixel coordinates into the same box in the upright image of `size` (H, W)."""
    swapped, rows, columns = _TURNS[orientation]
    class_id, top, left, bottom, right = box
    if swapped:
        top, left, bottom, right = left, top, right, bottom
    if rows:
        top, bottom = size[0] - bottom, size[0] - top
    if columns:
        left, right = size[1] - right, size[1] - left
    return Box(class_id, top, left, bottom, right)
