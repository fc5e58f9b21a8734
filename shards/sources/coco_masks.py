"""COCO's outlines to pixels: polygons and run lengths, plain or compressed.

Source: maskApi of cocoapi for both forms of run lengths, which are exact here.
Differs: a polygon holds the pixels whose centre it encloses, by the even-odd rule; maskApi rounds corners to a fifth of
a pixel first, so pixels on an outline may differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from shards.records import IGNORE, BadSampleError

_VOID = 0
"""The id of panoptic pixels that belong to no segment."""


def segmentation_mask(segmentation: Any, *, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W] of what an annotation's `segmentation` covers. Raises `BadSampleError` for one of another form."""
    try:
        if isinstance(segmentation, dict):
            return _run_lengths_mask(segmentation, size=size)
        mask = np.zeros(size, dtype=bool)
        for polygon in segmentation:
            add_polygon(mask, polygon)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        if isinstance(error, BadSampleError):
            raise
        raise BadSampleError(f"an outline is neither polygons nor run lengths of COCO's: {error}") from error
    return mask


def add_polygon(mask_HW: np.ndarray, polygon: Sequence[float]) -> None:
    """Set the pixels of bool[H, W] whose centres a polygon [x, y, x, y, ...] encloses; (0, 0) is the image's corner.

    Raises ValueError where the numbers are not pairs, or not finite.
    """
    height, width = mask_HW.shape
    points_P2 = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points_P2).all():
        raise ValueError("a polygon's corner is not finite")
    x0, y0 = points_P2.T
    x1, y1 = np.roll(points_P2, -1, axis=0).T
    # An edge crosses the rows whose middles lie between its ends, one end included, so that no corner counts twice.
    first = np.ceil(np.minimum(y0, y1) - 0.5).clip(0, height).astype(np.int64)
    last = np.ceil(np.maximum(y0, y1) - 0.5).clip(0, height).astype(np.int64)
    edges = np.repeat(np.arange(len(points_P2)), last - first)
    if len(edges) == 0:
        return
    counts = last - first
    rows = first[edges] + np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
    slope = (x1 - x0)[edges] / (y1 - y0)[edges]
    columns = np.ceil(x0[edges] + (rows + 0.5 - y0[edges]) * slope - 0.5).clip(0, width).astype(np.int64)
    top, left, right = rows.min(), columns.min(), columns.max()
    crossings = np.zeros((rows.max() + 1 - top, right - left + 1), dtype=np.int64)
    np.add.at(crossings, (rows - top, columns - left), 1)
    inside = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    mask_HW[top : top + len(inside), left:right] |= inside


def _run_lengths_mask(segmentation: dict[str, Any], *, size: tuple[int, int]) -> np.ndarray:
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = uncompressed_counts(counts)
    height, width = size
    if [int(side) for side in segmentation["size"]] != [height, width]:
        raise BadSampleError(f"an outline is of an image of {segmentation['size']} rows and columns, not {[*size]}")
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise BadSampleError(f"run lengths of an outline cover {sum(counts)} pixels, its image has {height * width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def uncompressed_counts(text: str) -> list[int]:
    """Run lengths from COCO's compressed form.

    Five bits a character from 48 on, lowest first, the sixth says that more follow; a number's highest bit is its sign;
    from the fourth number on, the difference to the last but one stands for it. Raises ValueError for any other text.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {character!r} is in no compressed run length")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("the compressed run lengths end in the middle of a number")
    return counts


def whole_box(box: Sequence[float]) -> tuple[int, int, int, int]:
    """COCO's [x, y, width, height] to the pixels it touches, at least one: top, left, bottom, right, half-open.

    Raises `BadSampleError` where these are not four finite numbers.
    """
    try:
        left, top, wide, high = (float(number) for number in box)
        right, bottom = math.ceil(left + wide), math.ceil(top + high)
        left, top = math.floor(left), math.floor(top)
    except (TypeError, ValueError, OverflowError):
        raise BadSampleError(f"the box of an object is {str(box)[:80]}, not four numbers") from None
    return int(top), int(left), max(bottom, int(top) + 1), max(right, int(left) + 1)


def instances_values(outlines: Iterable[tuple[int, Any]], *, size: tuple[int, int]) -> np.ndarray:
    """u8[H, W] of the outlines' values, 0 where there is none; 255 lies behind all, else the smaller one in front."""
    drawn = [(value, segmentation_mask(segmentation, size=size)) for value, segmentation in outlines]
    values_HW = np.zeros(size, dtype=np.uint8)
    for value, mask in sorted(drawn, key=lambda one: (one[0] != IGNORE, -np.count_nonzero(one[1]))):
        values_HW[mask] = value
    return values_HW


def panoptic_values(colours_HW3: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """u8[H, W]: the value of every pixel's segment, 255 for those of none. `values`: segment id -> value.

    A segment's id is R + 256 G + 65536 B. Raises `BadSampleError` for a segment that has no value.
    """
    ids_HW = colours_HW3.astype(np.int64) @ np.array([1, 256, 65536])
    found, places = np.unique(ids_HW, return_inverse=True)
    known = {**values, _VOID: IGNORE}
    if missing := [segment for segment in found.tolist() if segment not in known]:
        raise BadSampleError(f"the panoptic mask holds the segment {missing[0]}, of which the annotation says nothing")
    return np.array([known[segment] for segment in found.tolist()], np.uint8)[places.reshape(ids_HW.shape)]
