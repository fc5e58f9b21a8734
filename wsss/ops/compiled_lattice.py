"""The permutohedral lattice of an image's pixels, as compiled loops: what a CPU uses for the dense CRF.

`permutohedral.py` does the same in torch, for GPUs.

Shapes: H W pixels, N = H*W, F colours of a pixel (0 or 3), D = 2 + F features, M lattice vertices, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from wsss.ops.compiled import compiled, inlined

Blur = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

MOST_SPECIAL = 4
"""Up to this many channels a loop of its own is compiled, with the number as a constant: half the time."""
_EMPTY = -1
_HASH = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: the upper bits of a product with it are spread evenly (Knuth's hashing)."""
_MARGIN = 3
"""Cells that a vertex, or the neighbour of one, can lie outside the range of the rounded points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelLattice:
    """The vertices around the pixels of an image. The filter n_i k(f_i, f_j) n_j is splat, blur and slice by these."""

    vertices: np.ndarray
    """i32[N, D+1]: the vertices of the simplex around each pixel."""
    weights: np.ndarray
    """f32[N, D+1]: barycentric weight times the pixel's normalisation n_i."""
    neighbours: np.ndarray
    """i32[D+1, M, 2]: next and previous vertex along each axis; M if there is none."""
    row_sums: np.ndarray
    """f32[N]: n_i sum_j k(f_i, f_j) n_j, the filter of ones."""
    scale: float
    """Factor of every filtered value, 1 / (1 + 2^-D)."""


def pixel_lattice(image_HWF: np.ndarray, *, sxy: float, srgb: float) -> PixelLattice:
    """Build the lattice of pixels with the features (x / sxy, y / sxy, colours / srgb), `image_HWF` u8[H, W, F].

    An image without colours, u8[H, W, 0], gives the lattice of the positions alone. Vertices are numbered in the order
    in which rows of pixels meet them, and sums are taken in this order, so results are reproducible.

    Raises ValueError for features so far apart that a vertex's key does not fit in 63 bits.

    Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
    Differs: a vertex's key is one number, of its residue class and D small integers; each pixel first looks whether the
    pixel before it, or above it, has the same vertex.
    """
    height, width, num_colours = image_HWF.shape
    size = 3 + num_colours
    tables = [np.arange(length, dtype=np.float32) / np.float32(sxy) for length in (width, height)]
    tables += [np.arange(256, dtype=np.float32) / np.float32(srgb)] * num_colours
    deviation = math.sqrt(2 / 3) * size
    scaled = [table * np.float32(deviation / math.sqrt(axis * (axis + 1))) for axis, table in enumerate(tables, 1)]
    colours_F256 = np.stack(scaled[2:]) if num_colours else np.empty((0, 256), np.float32)
    lows, strides, span = _numbering(_ranges(scaled, image_HWF), size=size)
    vertices = np.empty((height * width, size), np.int32)
    weights = np.empty((height * width, size), np.float32)
    keys, table = _find_vertices(image_HWF, scaled[0], scaled[1], colours_F256, strides, lows, span, vertices, weights)
    neighbours = _find_neighbours(keys, strides, span, table)
    row_sums, scale = np.empty(height * width, np.float32), 1 / (1 + 2.0 ** -(size - 1))
    _normalise(vertices, weights, neighbours, row_sums, scale)
    return PixelLattice(vertices=vertices, weights=weights, neighbours=neighbours, row_sums=row_sums, scale=scale)


def _ranges(scaled: list[np.ndarray], image_HWF: np.ndarray) -> list[tuple[float, float]]:
    """The smallest and largest scaled value of each feature."""
    ends = [(float(table[0]), float(table[-1])) for table in scaled[:2]]
    for number, table in enumerate(scaled[2:]):
        colour_HW = image_HWF[..., number]
        ends.append((float(table[colour_HW.min()]), float(table[colour_HW.max()])))
    return ends


def _numbering(ranges: list[tuple[float, float]], *, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Lowest cell per axis, strides that give every vertex a key of its own (last axis: none), and their span.

    A feature's range bounds the coordinates e_0 = sum_k f_k and e_j = sum_(k>j) f_k - j f_j of the points.
    """
    lows, strides, span = [], [], 1
    for axis in range(size - 1):
        own_low, own_high = ranges[axis - 1] if axis else (0.0, 0.0)
        low = sum(one for one, _ in ranges[axis:]) - axis * own_high
        high = sum(one for _, one in ranges[axis:]) - axis * own_low
        lows.append(math.floor(low / size) - _MARGIN)
        strides.append(span)
        span *= math.ceil(high / size) + _MARGIN - lows[-1] + 1
    if span * size >= 2**63:
        raise ValueError(
            f"the features span {float(span):.1e} lattice cells, more than 63 bits can number; "
            "use wider kernels (larger sxy, srgb)"
        )
    return np.array([*lows, 0], np.int64), np.array([*strides, 0], np.int64), span


@inlined
def _elevate(features: np.ndarray, elevated: np.ndarray) -> None:
    """Map scaled features f_1, ..., f_D onto the plane sum(e) = 0: e_0 = sum_k f_k, e_j = sum_(k>j) f_k - j f_j."""
    total = np.float32(0)
    for axis in range(len(elevated) - 1, 0, -1):
        elevated[axis] = total - np.float32(axis) * features[axis - 1]
        total += features[axis - 1]
    elevated[0] = total


@compiled
def _round_to_cell(elevated: np.ndarray, cell: np.ndarray, offset: np.ndarray, rank: np.ndarray) -> None:
    """The nearest lattice point of residue 0, in cells; offsets from it, and their ranks from the largest, 0.

    The rounded point may lie off the plane sum(x) = 0 by `excess` steps; the axes that rank last (or first) go one
    cell back (or on).
    """
    size = len(elevated)
    excess = 0
    for axis in range(size):
        near = np.rint(elevated[axis] * np.float32(1 / size))
        cell[axis] = np.int64(near)
        offset[axis] = elevated[axis] - near * np.float32(size)
        excess += cell[axis]
        rank[axis] = 0
    for axis in range(size):
        for other in range(axis + 1, size):
            smaller = offset[axis] < offset[other]
            rank[axis] += smaller
            rank[other] += not smaller
    for axis in range(size):
        rank[axis] += excess
        if rank[axis] >= size:
            rank[axis] -= size
            cell[axis] -= 1
            offset[axis] += np.float32(size)
        elif rank[axis] < 0:
            rank[axis] += size
            cell[axis] += 1
            offset[axis] -= np.float32(size)


@compiled
def _slot_of(key: np.int64, table: np.ndarray, keys: np.ndarray) -> np.int64:
    """Where the hash table has the vertex of this key, or where it would be put.

    The table, of a power of two entries, has numbers of vertices or -1; `keys` are the vertices' keys.
    """
    last = len(table) - 1
    product = np.uint64(key) * _HASH
    slot = np.int64((product ^ (product >> np.uint64(32))) & np.uint64(last))
    while table[slot] != _EMPTY and keys[table[slot]] != key:
        slot = (slot + 1) & last
    return slot


@compiled
def _table(keys: np.ndarray, at_least: int) -> np.ndarray:
    """A hash table of these vertices, with room for at least so many."""
    length = 1
    while length < at_least:
        length *= 2
    table = np.full(length, _EMPTY, np.int32)
    for vertex in range(len(keys)):
        table[_slot_of(keys[vertex], table, keys)] = vertex
    return table


@compiled
def _find_vertices(
    image_HWF: np.ndarray,
    x_W: np.ndarray,
    y_H: np.ndarray,
    colours_F256: np.ndarray,
    strides: np.ndarray,
    lows: np.ndarray,
    span: int,
    vertices: np.ndarray,
    weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill in each pixel's vertices and barycentric weights; returns the vertices' keys and their hash table. A vertex
    of residue r has coordinates (D+1) a + r; its key is r span + sum_j stride_j (a_j - low_j)."""
    height, width, num_colours = image_HWF.shape
    size, num_vertices = num_colours + 3, 0
    features, elevated, offset = np.empty((3, size), np.float32)
    cell, rank, axis_of = np.empty((3, size), np.int64)
    keys = np.empty(height * width * size, np.int64)
    table = _table(keys[:0], height * width)
    for pixel in range(height * width):
        y, x = divmod(pixel, width)
        features[0], features[1] = x_W[x], y_H[y]
        for colour in range(num_colours):
            features[2 + colour] = colours_F256[colour, image_HWF[y, x, colour]]
        _elevate(features, elevated)
        _round_to_cell(elevated, cell, offset, rank)
        key = np.int64(0)
        for axis in range(size):
            axis_of[rank[axis]] = axis
            key += (cell[axis] - lows[axis]) * strides[axis]
        weights[pixel, 0] = np.float32(1) + (offset[axis_of[size - 1]] - offset[axis_of[0]]) * np.float32(1 / size)
        for residue in range(size):
            if residue > 0:
                axis = axis_of[size - residue]
                key += span - strides[axis]
                weights[pixel, residue] = (offset[axis_of[size - 1 - residue]] - offset[axis]) * np.float32(1 / size)
            if x > 0 and keys[vertices[pixel - 1, residue]] == key:
                vertices[pixel, residue] = vertices[pixel - 1, residue]
            elif y > 0 and keys[vertices[pixel - width, residue]] == key:
                vertices[pixel, residue] = vertices[pixel - width, residue]
            else:
                slot = _slot_of(key, table, keys)
                if table[slot] == _EMPTY:
                    table[slot], keys[num_vertices] = num_vertices, key
                    num_vertices += 1
                vertices[pixel, residue] = table[slot]
                if 2 * num_vertices > len(table):
                    table = _table(keys[:num_vertices], 4 * num_vertices)
    return keys[:num_vertices], table


@compiled
def _find_neighbours(keys: np.ndarray, strides: np.ndarray, span: int, table: np.ndarray) -> np.ndarray:
    """The vertices one step along each axis: -1 in every coordinate, +D in the axis' own. i32[D+1, M, 2]."""
    size, num_vertices = len(strides), len(keys)
    neighbours = np.full((size, num_vertices, 2), num_vertices, np.int32)
    for vertex in range(num_vertices):
        # The step leads from residue r to r - 1 with the same a, but from residue 0 to D with every a one lower.
        key = keys[vertex] - span
        if key < 0:
            key += size * span - strides.sum()
        for axis in range(size):
            other = table[_slot_of(key + strides[axis], table, keys)]
            if other != _EMPTY:
                neighbours[axis, vertex, 0] = other
                neighbours[axis, other, 1] = vertex
    return neighbours


def blur_for(num_channels: int) -> Blur:
    """The compiled blur for values of C channels: (values, spare, neighbours) -> the result, the array that is free.

    Along every axis in turn, each vertex gets v + (next + previous) / 2. `values` and `spare` are f32[M+1, C]; their
    last row is zero and represents an absent neighbour.
    """
    return _blur(num_channels if num_channels <= MOST_SPECIAL else 0)


@cache
def _blur(fixed_channels: int) -> Blur:
    """For a constant number of channels; 0 for any number."""

    @compiled
    def blur(values: np.ndarray, spare: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num_channels = fixed_channels or values.shape[1]
        for axis in range(neighbours.shape[0]):
            for vertex in range(neighbours.shape[1]):
                following, previous = neighbours[axis, vertex, 0], neighbours[axis, vertex, 1]
                for channel in range(num_channels):
                    sides = values[following, channel] + values[previous, channel]
                    spare[vertex, channel] = values[vertex, channel] + np.float32(0.5) * sides
            values, spare = spare, values
        return values, spare

    result: Blur = blur
    return result


@compiled
def _splat_weights(vertices: np.ndarray, weights: np.ndarray, values: np.ndarray) -> None:
    """values_v = sum of the weights of vertex v."""
    values[:] = 0
    for pixel in range(vertices.shape[0]):
        for corner in range(vertices.shape[1]):
            values[vertices[pixel, corner], 0] += weights[pixel, corner]


@compiled
def _slice_weights(vertices: np.ndarray, weights: np.ndarray, values: np.ndarray, sums: np.ndarray) -> None:
    """sums_i = sum over the pixel's corners of weight times value."""
    for pixel in range(vertices.shape[0]):
        total = np.float32(0)
        for corner in range(vertices.shape[1]):
            total += weights[pixel, corner] * values[vertices[pixel, corner], 0]
        sums[pixel] = total


def _normalise(
    vertices: np.ndarray, weights: np.ndarray, neighbours: np.ndarray, row_sums: np.ndarray, scale: float
) -> None:
    """Multiply the weights by n_i = (sum_j k(f_i, f_j) + 1e-20)^(-1/2), and fill in the row sums."""
    values, spare = np.zeros((2, neighbours.shape[1] + 1, 1), np.float32)
    for normalised in (False, True):
        _splat_weights(vertices, weights, values)
        values, spare = blur_for(1)(values, spare, neighbours)
        _slice_weights(vertices, weights, values, row_sums)
        row_sums *= np.float32(scale)
        if not normalised:
            weights *= (1 / np.sqrt(row_sums + np.float32(1e-20)))[:, None]
