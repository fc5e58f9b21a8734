"""Pairs of nearby pixels and the pixels on the straight path between them.

Everything here is integer geometry, without tensors. Offsets are (dy, dx) in grid pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

Offset = tuple[int, int]


class PathRuns(NamedTuple):
    """A path split into straight runs of pixels, all along one axis.

    `dim` is the tensor dimension of the runs (-1 along a row, -2 along a column); a run is (y, x, length), (y, x)
    being its first pixel relative to the source.
    """

    dim: int
    runs: tuple[tuple[int, int, int], ...]


class SourceWindow(NamedTuple):
    """A rectangle of source pixels: first row, first column, number of rows, number of columns."""

    top: int
    left: int
    height: int
    width: int

    def shifted(self, offset: Offset) -> tuple[slice, slice]:
        """Row and column slices of the window's pixels moved by `offset`."""
        top, left = self.top + offset[0], self.left + offset[1]
        return slice(top, top + self.height), slice(left, left + self.width)


@lru_cache(maxsize=32)
def half_plane_offsets(radius: int) -> tuple[Offset, ...]:
    """One offset for every unordered pair of pixels closer than `radius`.

    {(dy, dx) : 0 < dy^2 + dx^2 < radius^2, and dy > 0 or (dy = 0 and dx > 0)}, ordered by dy, then dx:
    34 offsets for radius 5, 152 for radius 10, none for radius 1.

    Raises: ValueError if `radius` is below 1.
    Source: Ahn & Kwak, CVPR 2018 (AffinityNet), eq. 4; Ahn et al., CVPR 2019 (IRNet), sec. 4.3.
    Differs: the inequality is strict, as in both public codes (the papers' text does not say).
    """
    if radius < 1:
        raise ValueError(f"radius is {radius}; it must be a whole number of at least 1 (published: 10 and 5)")
    reach = range(-radius + 1, radius)
    return tuple(
        (dy, dx) for dy in range(radius) for dx in reach if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius
    )


@lru_cache(maxsize=4096)
def path_pixels(offset: Offset) -> tuple[Offset, ...]:
    """Pixels on the path from (0, 0) to `offset`, both ends included, in row-major order.

    {(y, x) in the bounding box of the two ends : (dy x - dx y)^2 / (dy^2 + dx^2) < 1}, that is every pixel whose centre
    is less than one pixel from the line.

    Raises: ValueError for the offset (0, 0), which has no line.
    Source: Ahn et al., CVPR 2019 (IRNet), eq. 4 and its public code.
    Differs: as published.
    """
    dy, dx = offset
    if dy == dx == 0:
        raise ValueError("the offset is (0, 0); a path needs two different pixels")
    rows = range(min(dy, 0), max(dy, 0) + 1)
    columns = range(min(dx, 0), max(dx, 0) + 1)
    return tuple((y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx)


@lru_cache(maxsize=4096)
def path_runs(offset: Offset) -> PathRuns:
    """The same path as runs along its longer extent, so that there are min(|dy|, |dx|) + 1 of them.

    A path meets each row and each column in one unbroken run, because |dy x - dx y| < const is an interval in x and y.
    """
    dy, dx = offset
    along_rows = abs(dx) >= abs(dy)
    lines: dict[int, list[Offset]] = {}
    for y, x in path_pixels(offset):
        lines.setdefault(y if along_rows else x, []).append((y, x))
    return PathRuns(-1 if along_rows else -2, tuple((*pixels[0], len(pixels)) for pixels in lines.values()))


def interior_window(size: tuple[int, int], *, radius: int) -> SourceWindow:
    """Sources whose partners at every half-plane offset lie inside an image of `size` (h, w).

    They are at least radius - 1 pixels from the left, the right and the bottom border.

    Raises: ValueError if no such pixel exists.
    Source: public code of Ahn et al., CVPR 2019 (IRNet).  Differs: as published.
    """
    reach = radius - 1
    window = SourceWindow(0, reach, size[0] - reach, size[1] - 2 * reach)
    if window.height < 1 or window.width < 1:
        raise ValueError(
            f"a map of {size[0]}x{size[1]} has no pixel with all partners of radius {radius} inside; it must be at "
            f"least {reach + 1}x{2 * reach + 1}: enlarge the crop or lower the radius"
        )
    return window


def in_image_window(size: tuple[int, int], *, offset: Offset) -> SourceWindow:
    """Sources whose partner at `offset` (dy >= 0) lies inside an image of `size`; may be empty (height or width 0)."""
    dy, dx = offset
    return SourceWindow(0, max(0, -dx), max(0, size[0] - dy), max(0, size[1] - abs(dx)))
