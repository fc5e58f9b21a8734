"""Boxes as planes, one per class.

Shape letters: `C` classes with background, `K` classes with boxes, `H W` pixels, `h w` the grid of stride 4.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from shards.records import GRID_STRIDE, Box
from wsss.ops.box_planes import box_planes


def planes_of_boxes(boxes: Iterable[Box], *, size: tuple[int, int]) -> tuple[list[int], np.ndarray]:
    """The classes with boxes, ascending, and planes u8[H, W, K] with 1 inside the boxes of each class."""
    boxes = tuple(boxes)
    classes = sorted({box.class_id for box in boxes})
    planes = np.zeros((*size, len(classes)), np.uint8)
    for class_id, top, left, bottom, right in boxes:
        planes[top:bottom, left:right, classes.index(class_id)] = 1
    return classes, planes


def grid_planes(inside_HWK: np.ndarray, classes: list[int], *, num_classes: int) -> torch.Tensor:
    """Planes bool[C, h, w] on the stride-4 grid, from planes of pixels; values other than 1 are outside all boxes."""
    middle = GRID_STRIDE // 2
    inside_Khw = torch.from_numpy(inside_HWK[middle::GRID_STRIDE, middle::GRID_STRIDE] == 1).permute(2, 0, 1)
    return box_planes(inside_Khw, classes=classes, num_classes=num_classes)
