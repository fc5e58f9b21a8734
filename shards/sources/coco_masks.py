"""Converts COCO's outlines (polygons and run lengths, plain or compressed) to pixels with pycocotools.

All values of an annotation are checked before they reach the C code of pycocotools, which reads past the end of run
lengths that are too short, and allocates memory in proportion to the length of a polygon's edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_api

from shards.label_type import BYTE, LabelType
from shards.records import BadSampleError

_VOID = 0
"""The id of panoptic pixels that belong to no segment."""
_MOST_SIDES = 10
"""Largest allowed coordinate of a polygon's corner, in multiples of the image's longer side."""
_MOST_BOUNDARY = 2_000_000
"""Largest allowed total length of a polygon's edges, in pixels."""
_LONGEST_NUMBER = 7
"""Most characters of a number in compressed run lengths: 35 bits."""


class Outline(NamedTuple):
    """The pixels of an object and their value in the mask."""

    value: int
    """Value of its pixels."""
    is_behind: bool
    """True if all other objects are drawn over it: crowds, and boxes of objects without an outline."""
    mask: np.ndarray
    """bool[H, W]."""


def segmentation_mask(segmentation: Any, *, size: tuple[int, int]) -> np.ndarray | None:
    """bool[H, W] of the pixels that an annotation's `segmentation` covers; None if it contains no outline.

    An outline is one or more polygons [x, y, x, y, ...] with at least three corners, or run lengths. Raises
    `BadSampleError` for anything else.
    """
    if isinstance(segmentation, dict) or not isinstance(segmentation, list):
        parts = [] if segmentation in (None, "") else [segmentation]
    elif segmentation and all(isinstance(part, int | float) for part in segmentation):
        parts = [segmentation]  # one polygon without the list around it
    else:
        parts = segmentation
    try:
        encoded = [one for part in parts if (one := _encoded(part, size=size)) is not None]
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        if isinstance(error, BadSampleError):
            raise
        raise BadSampleError(f"an outline is neither polygons nor run lengths in COCO's format: {error}") from error
    if not encoded:
        return None
    decoded: np.ndarray = mask_api.decode(encoded[0] if len(encoded) == 1 else mask_api.merge(encoded))
    return decoded.astype(bool)


def _encoded(part: Any, *, size: tuple[int, int]) -> dict[str, Any] | None:
    """A polygon or run lengths in pycocotools' format; None for a polygon with fewer than three corners."""
    if isinstance(part, dict):
        counts = _checked_counts(part, size=size)
        encoded: dict[str, Any] = mask_api.frPyObjects({"size": [*size], "counts": counts}, *size)
        return encoded
    corners = _checked_polygon(part, size=size)
    return mask_api.frPyObjects([corners], *size)[0] if len(corners) >= 6 else None


def _checked_polygon(polygon: Any, *, size: tuple[int, int]) -> list[float]:
    """The numbers of a polygon. Raises ValueError if they are not pairs of finite numbers near the image."""
    if not isinstance(polygon, list):
        raise ValueError(f"a polygon is {str(polygon)[:80]!r}, not a list of numbers")
    points = np.array(polygon, dtype=np.float64).reshape(-1)
    if points.size % 2:
        raise ValueError(f"a polygon has {points.size} numbers; they must be pairs x, y")
    if not np.isfinite(points).all():
        raise ValueError("a polygon's corner is not finite")
    farthest = np.abs(points).max(initial=0.0)
    if farthest > _MOST_SIDES * max(size):
        raise ValueError(
            f"a polygon's corner is at {farthest:.0f}, far outside its image of {size[1]}x{size[0]} pixels"
        )
    edges_P2 = np.diff(points.reshape(-1, 2), axis=0, append=points.reshape(-1, 2)[:1])
    if np.abs(edges_P2).max(axis=1, initial=0.0).sum() > _MOST_BOUNDARY:
        raise ValueError(f"the edges of a polygon are more than {_MOST_BOUNDARY} pixels long in total")
    return [float(number) for number in points]


def _checked_counts(segmentation: Mapping[str, Any], *, size: tuple[int, int]) -> list[int]:
    """Run lengths that cover the image exactly. Raises `BadSampleError` or ValueError for any others."""
    height, width = size
    counts = segmentation["counts"]
    if [int(side) for side in segmentation["size"]] != [height, width]:
        raise BadSampleError(
            f"an outline is for an image of {segmentation['size']} rows and columns, but the image has {[*size]}"
        )
    counts = uncompressed_counts(counts) if isinstance(counts, str) else [_whole(count) for count in counts]
    if min(counts, default=0) < 0:
        raise BadSampleError("a run length of an outline is negative")
    if sum(counts) != height * width:
        raise BadSampleError(
            f"run lengths of an outline cover {sum(counts)} pixels, but its image has {height * width}"
        )
    return counts


def _whole(count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, int | float) or count != int(count):
        raise ValueError(f"a run length is {str(count)[:20]!r}, not a whole number")
    return int(count)


def uncompressed_counts(text: str) -> list[int]:
    """Run lengths from COCO's compressed format, so that they can be checked: pycocotools does not check them.

    Each character minus 48 holds five bits of a number, lowest bits first, and a sixth bit that is set if more follow.
    A number's highest bit is its sign. From the fourth number on, the stored number is the difference to the number
    two before it. Raises ValueError for any other text.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {character!r} is not allowed in compressed run lengths")
        if shift >= 5 * _LONGEST_NUMBER:
            raise ValueError("a number in the compressed run lengths is too long")
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


def compressed_counts(mask_HW: np.ndarray) -> dict[str, Any]:
    """The True pixels of bool[H, W] as COCO's compressed run lengths: `size` and `counts`, which JSON can hold."""
    encoded = mask_api.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def whole_box(box: Sequence[float]) -> tuple[int, int, int, int]:
    """Convert COCO's [x, y, width, height] to the pixels it touches: top, left, bottom, right, half-open.

    The result has at least one row and column. Raises `BadSampleError` if the values are not four finite numbers.
    """
    try:
        left, top, wide, high = (float(number) for number in box)
        right, bottom = math.ceil(left + wide), math.ceil(top + high)
        left, top = math.floor(left), math.floor(top)
    except (TypeError, ValueError, OverflowError):
        raise BadSampleError(f"the box of an object is {str(box)[:80]}, not four numbers") from None
    return int(top), int(left), max(bottom, int(top) + 1), max(right, int(left) + 1)


def box_mask(box: Any, *, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W] of the pixels that COCO's box touches; all pixels if the box is missing or has no extent.

    Raises `BadSampleError` if the box is given but is not four finite numbers.
    """
    mask = np.zeros(size, dtype=bool)
    if not box:
        return ~mask
    top, left, bottom, right = whole_box(box)
    if float(box[2]) <= 0 or float(box[3]) <= 0:
        return ~mask
    mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    return mask


def box_of_mask(mask_HW: np.ndarray) -> tuple[int, int, int, int] | None:
    """Top, left, bottom, right of the True pixels of bool[H, W], half-open; None if there are none."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if len(rows) == 0:
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def instances_values(outlines: Iterable[Outline], *, size: tuple[int, int], labels: LabelType = BYTE) -> np.ndarray:
    """The outlines' values as a mask of that type, 0 elsewhere; where two overlap, the smaller one is in front."""
    values_HW = np.zeros(size, dtype=labels.dtype)
    for one in sorted(outlines, key=lambda one: (not one.is_behind, -np.count_nonzero(one.mask))):
        values_HW[one.mask] = one.value
    return values_HW


def panoptic_values(colours_HW3: np.ndarray, values: Mapping[int, int], *, labels: LabelType = BYTE) -> np.ndarray:
    """A mask of that type: the value of every pixel's segment, ignored without one. `values`: segment id -> value.

    A segment's id is R + 256 G + 65536 B. Raises `BadSampleError` for a segment that has no value.
    """
    ids_HW = colours_HW3.astype(np.int64) @ np.array([1, 256, 65536])
    found, indices = np.unique(ids_HW, return_inverse=True)
    known = {**values, _VOID: labels.ignore}
    if missing := [segment for segment in found.tolist() if segment not in known]:
        raise BadSampleError(f"the panoptic mask contains segment {missing[0]}, which its annotation does not list")
    return np.array([known[segment] for segment in found.tolist()], labels.dtype)[indices.reshape(ids_HW.shape)]
