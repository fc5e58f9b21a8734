"""The grid of DSRG, in a separate file so that settings can be checked against it without importing torch.

A crop of 8 n pixels has a grid of n cells of 8 x 8 pixels. A crop of 8 n + 1 pixels has n + 1 grid points, 8 pixels
apart, from its first pixel to its last: the 41 x 41 grid of DSRG, SEC and FickleNet for their crops of 321.
"""

GRID = 8
"""Pixels of the crop per pixel of the grid on which seeds, CRF and losses are computed."""


def is_corner_to_corner(crop_size: int) -> bool:
    """True if the corner pixels of the grid are those of the crop."""
    return crop_size % GRID == 1


def grid_side(crop_size: int) -> int:
    """Pixels on a side of the grid. Raises: ValueError for a crop that has no grid."""
    if crop_size % GRID > 1:
        raise ValueError(f"a crop of {crop_size} pixels has no grid; allowed: multiples of {GRID}, or one more")
    return crop_size // GRID + crop_size % GRID
