"""Boxes of objects: derived from masks if no boxes are annotated, and clipped to the image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from shards.label_type import BACKGROUND, ignore_of
from shards.records import BadSampleError, Box

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def boxes_of_mask(mask_HW: np.ndarray, *, least_part: float = 0.0) -> tuple[Box, ...]:
    """Boxes of the 8-connected components of every foreground class of u8 or u16[H, W], by class, then by position.

    They replace annotated boxes: an object in two separate parts gets two boxes, two touching objects of a class share
    one. Components with less than `least_part` of the area of their class's largest component get none.
    """
    from scipy import ndimage  # slow to import, and not needed to read a recipe

    boxes = []
    for class_id in np.unique(mask_HW).tolist():
        if class_id in (BACKGROUND, ignore_of(mask_HW)):
            continue
        labels, _ = ndimage.label(mask_HW == class_id, structure=_EIGHT_NEIGHBOURS)
        areas = np.bincount(labels.ravel())[1:]
        for area, (rows, columns) in zip(areas, ndimage.find_objects(labels), strict=True):
            if area >= least_part * areas.max():
                boxes.append(Box(class_id, rows.start, columns.start, rows.stop, columns.stop))
    return tuple(boxes)


def inside(boxes: Iterable[Box], *, size: tuple[int, int]) -> tuple[Box, ...]:
    """The boxes clipped to the image. Raises `BadSampleError` for a box that contains no pixel of it."""
    height, width = size
    cut = []
    for class_id, top, left, bottom, right in boxes:
        box = Box(class_id, max(top, 0), max(left, 0), min(bottom, height), min(right, width))
        if box.top >= box.bottom or box.left >= box.right:
            raise BadSampleError(
                f"a box of class {class_id}, rows {top} to {bottom}, columns {left} to {right}, contains no pixel of "
                f"an image of {height} rows and {width} columns"
            )
        cut.append(box)
    return tuple(cut)
