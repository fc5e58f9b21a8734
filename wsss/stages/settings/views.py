"""The sizes of the views of an image that a stage shows to a trained network.

Shape letters: `H W` pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SHORTEST_SIDE = 32
"""No side of a resized view is shorter: an encoder of output stride 32 reduces it to one."""


def classifier_views(
    size: tuple[int, int], *, scales: Sequence[float], long_side: int, max_side: int
) -> list[tuple[int, int]]:
    """Sizes (H, W) of an image's views for a classifier, one per scale.

    A scale is a factor of the image's size, or of the size with the longer side `long_side` if that is not 0. No side
    is longer than `max_side`, which limits memory, or shorter than `SHORTEST_SIDE`.
    """
    from wsss.data.images import long_side_size
    from wsss.ops.multi_scale import view_sizes

    base = long_side_size(size, long_side=long_side) if long_side else size
    sizes = view_sizes(base, scales=scales)
    fitting = [view if max(view) <= max_side else long_side_size(view, long_side=max_side) for view in sizes]
    return [(max(height, SHORTEST_SIDE), max(width, SHORTEST_SIDE)) for height, width in fitting]


def walk_size(size: tuple[int, int], *, long_side: int) -> tuple[int, int]:
    """Size (H, W) of an image for an affinity network: its own, or with the longer side `long_side` if that is not 0.

    A resized image has no side shorter than `SHORTEST_SIDE`.
    """
    from wsss.data.images import long_side_size

    if not long_side:
        return size
    height, width = long_side_size(size, long_side=long_side)
    return max(height, SHORTEST_SIDE), max(width, SHORTEST_SIDE)


def edge_view_sizes(size: tuple[int, int], *, scales: Sequence[float]) -> list[tuple[int, int]]:
    """Sizes (H, W) of an image's views for IRNet's boundary map, one per scale: factors of `size`.

    A resized image has no side shorter than `SHORTEST_SIDE`; at scale 1 the image is not resized. Raises ValueError for
    no scale, or one that is not positive.
    """
    from wsss.ops.multi_scale import view_sizes

    views = view_sizes(size, scales=scales)
    return [view if view == size else (max(view[0], SHORTEST_SIDE), max(view[1], SHORTEST_SIDE)) for view in views]


def longer_side(side: int, *, scale: float, long_side: int = 0, max_side: int | None = None) -> int:
    """The longer side of a view of an image with this longer side, without torch: what the sizes above amount to."""
    wanted = max(1, math.floor((long_side or side) * scale + 0.5))
    return min(wanted, max_side) if max_side is not None else wanted
