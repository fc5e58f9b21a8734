"""High-dimensional Gaussian filtering on the permutohedral lattice, in plain torch.

Shapes: N points, D features, M lattice vertices, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

MAX_FEATURES = 6
# A point's offset from a lattice point is sorted as a fixed-point number with the axis in its lowest bits: 31 bits hold
# both, the rounding (3e-8) is below that of float32, and sorting needs neither an index nor a gather.
_AXIS_BITS = 3
_AXIS_MASK = (1 << _AXIS_BITS) - 1
_FIXED_POINT = 1 << 25
_INT32_LIMIT = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Lattice:
    """The vertices around a set of points, ready to filter any number of channels (made by `build_lattice`)."""

    splat_points: Tensor
    """int32 [N*(D+1)]: points grouped by the vertex to which they are splatted."""
    splat_offsets: Tensor
    """int32 [M+2]: where each vertex's group starts; the last group is empty and represents an absent neighbour."""
    splat_weights: Tensor
    """float32 [N*(D+1)]: barycentric weight times the point's normalisation."""
    slice_vertices: Tensor
    """int32 [N*(D+1)]: the vertices of the simplex around each point."""
    slice_offsets: Tensor
    """int32 [N+1]: 0, D+1, 2 (D+1), ..."""
    slice_weights: Tensor
    """float32 [N*(D+1)]: barycentric weight times the point's normalisation and the lattice's constant."""
    neighbours: Tensor
    """int32 [D+1, 2, M+1]: next and previous vertex along each axis; M if there is none."""

    def filter(self, values_NC: Tensor) -> Tensor:
        """Return n_i sum_j k(f_i, f_j) n_j v_j, float32 [N,C], with n = (K 1)^(-1/2) (see `build_lattice`)."""
        num_channels = values_NC.shape[1]
        if num_channels == 3:
            values_NC = torch.nn.functional.pad(values_NC, (0, 1))
        vertices_MC = _bags(values_NC, self.splat_points, offsets=self.splat_offsets, weights=self.splat_weights)
        for following, previous in self.neighbours:
            sides_MC = _take_rows(vertices_MC, following)
            sides_MC += _take_rows(vertices_MC, previous)
            vertices_MC = sides_MC.mul_(0.5).add_(vertices_MC)
        filtered_NC = _bags(vertices_MC, self.slice_vertices, offsets=self.slice_offsets, weights=self.slice_weights)
        return filtered_NC[:, :num_channels]


def build_lattice(features_DN: Tensor) -> Lattice:
    """Build the lattice that filters N points with the Gaussian kernel k(f, g) = exp(-|f - g|^2 / 2).

    `features_DN` is float32 [D,N], D <= 6, in units of the kernel's standard deviation. The kernel is normalised
    symmetrically: n_i k(f_i, f_j) n_j with n_i = (sum_j k(f_i, f_j) + 1e-20)^(-1/2); the term i = j is kept. Vertices,
    and the order in which a vertex sums its points, depend only on the features, so results are reproducible.

    Raises ValueError for another shape, or for features so far apart that a vertex's key does not fit in 63 bits.

    Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
    Differs: vertices are found by sorting keys instead of hashing; each of the D+1 vertices of a simplex belongs to
    another residue class, and within a class a key is D small integers.
    """
    if features_DN.ndim != 2 or not 0 < features_DN.shape[0] <= MAX_FEATURES or features_DN.shape[1] == 0:
        raise ValueError(
            f"features have shape {tuple(features_DN.shape)}; give [D,N] with 1 <= D <= {MAX_FEATURES} and N >= 1"
        )
    num_features, num_points = features_DN.shape
    keys, weights, strides, span = _simplices(features_DN.float())
    vertex_keys, points, offsets, slice_vertices = _vertices(keys, span=span)
    slice_weights = torch.stack(weights, 1).mul_(1 / (1 + 2.0**-num_features))
    splat_weights = torch.cat([weight.index_select(0, group) for weight, group in zip(weights, points, strict=True)])
    lattice = Lattice(
        splat_points=torch.cat([group.int() for group in points]),
        splat_offsets=offsets,
        splat_weights=splat_weights,
        slice_vertices=slice_vertices.flatten(),
        slice_offsets=torch.arange(num_points + 1, dtype=torch.int32, device=offsets.device) * (num_features + 1),
        slice_weights=slice_weights.view(-1),
        neighbours=_neighbours(vertex_keys, strides=strides, span=span),
    )
    norm_N = lattice.filter(slice_weights.new_ones(num_points, 1))[:, 0].add_(1e-20).rsqrt_()
    splat_weights *= norm_N.index_select(0, lattice.splat_points)
    slice_weights *= norm_N[:, None]
    return lattice


def _bags(values: Tensor, rows: Tensor, *, offsets: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted rows per bag: a sparse matrix product in a fixed order of additions, on CPU and GPU."""
    return embedding_bag(rows, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _take_rows(values_MC: Tensor, rows: Tensor) -> Tensor:
    """`values_MC[rows]`; two or four floats are gathered as one wide number, three times faster than as a row."""
    wide = {1: torch.float32, 2: torch.float64, 4: torch.complex128}.get(values_MC.shape[1])
    if wide is None:
        return values_MC.index_select(0, rows)
    return values_MC.view(wide).view(-1).index_select(0, rows)[:, None].view(torch.float32)


def _elevate(features_DN: Tensor) -> list[Tensor]:
    """Map features isometrically (up to scale) onto the plane sum(x) = 0 of D+1 dimensions."""
    num_features = len(features_DN)
    deviation = math.sqrt(2 / 3) * (num_features + 1)
    elevated = []
    total = torch.zeros_like(features_DN[0])
    for axis in range(num_features, 0, -1):
        scaled = features_DN[axis - 1] * (deviation / math.sqrt(axis * (axis + 1)))
        elevated.append(total - axis * scaled)
        total = total + scaled
    elevated.append(total)
    return elevated[::-1]


def _sort_descending(rows: list[Tensor]) -> list[Tensor]:
    """Sort D+1 rows element by element (a bubble network: D is small and every step is one vector operation)."""
    rows = list(rows)
    for last in range(len(rows) - 1, 0, -1):
        for i in range(last):
            rows[i], rows[i + 1] = torch.maximum(rows[i], rows[i + 1]), torch.minimum(rows[i], rows[i + 1])
    return rows


def _simplices(features_DN: Tensor) -> tuple[list[Tensor], list[Tensor], list[int], int]:
    """Return each point's D+1 vertex keys and barycentric weights, the keys' strides per axis and their span.

    The vertex of residue r has coordinates (D+1) a + r; its key is sum_j stride_j a_j over the first D axes.
    """
    elevated = _elevate(features_DN)
    size = len(elevated)
    nearest = [torch.round(row * (1 / size)) for row in elevated]
    strides, span, lows = _strides(nearest)
    dtype = torch.int32 if span * size <= _INT32_LIMIT else torch.int64
    table = torch.tensor(strides, dtype=dtype, device=features_DN.device)
    codes = [
        ((row - size * near) * _FIXED_POINT).int() * (1 << _AXIS_BITS) + (_AXIS_MASK - axis)
        for axis, (row, near) in enumerate(zip(elevated, nearest, strict=True))
    ]
    key = sum((near.to(dtype) - low) * stride for near, low, stride in zip(nearest, lows, strides, strict=True))
    assert isinstance(key, Tensor)
    # The rounded point may lie off the plane by `excess` steps; those that sort last (or first) go one cell back.
    excess = torch.stack(nearest).sum(0).int()
    ordered = _sort_descending(codes)
    for rank, code in enumerate(ordered):
        shift = (excess > size - 1 - rank).int() - (excess < -rank).int()
        key = key - shift * table.index_select(0, _axis_of(code))
        ordered[rank] = code + shift * (size * _FIXED_POINT << _AXIS_BITS)
    ordered = _sort_descending(ordered)
    offset = [(code >> _AXIS_BITS).float() * (1 / (_FIXED_POINT * size)) for code in ordered]
    keys = [key]
    for code in ordered[:0:-1]:
        keys.append(keys[-1] - table.index_select(0, _axis_of(code)))
    weights = [1 + offset[-1] - offset[0]]
    weights += [offset[rank - 1] - offset[rank] for rank in range(size - 1, 0, -1)]
    return keys, weights, strides, span


def _axis_of(code: Tensor) -> Tensor:
    return _AXIS_MASK - (code & _AXIS_MASK)


def _strides(nearest: list[Tensor]) -> tuple[list[int], int, list[int]]:
    """Mixed-radix strides that give every vertex, and every neighbour of one, a key of its own (last axis: none)."""
    margin = 3
    lows, highs = torch.stack([torch.stack([row.amin(), row.amax()]) for row in nearest[:-1]]).T.long().tolist()
    lows = [low - margin for low in lows]
    strides = []
    span = 1
    for low, high in zip(lows, highs, strict=True):
        strides.append(span)
        span *= high + margin - low + 1
    if span * len(nearest) >= 2**63:
        raise ValueError(
            f"the features span {float(span):.1e} lattice cells, more than 63 bits can number; "
            "use wider kernels (larger sxy, srgb)"
        )
    return [*strides, 0], span, [*lows, 0]


def _vertices(keys: list[Tensor], *, span: int) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Number the vertices: sorted keys [M], points grouped by vertex, offsets of the groups [M+2], ids [N, D+1]."""
    vertex_keys, points, counts, ids = [], [], [], []
    num_vertices = 0
    for residue, key in enumerate(keys):
        ordered, group = torch.sort(key, stable=True)
        unique, inverse, count = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
        ids.append(torch.empty_like(inverse, dtype=torch.int32).scatter_(0, group, inverse.int() + num_vertices))
        vertex_keys.append(unique + residue * span)
        points.append(group)
        counts.append(count)
        num_vertices += len(unique)
    ends = torch.cat(counts).cumsum(0)
    offsets = torch.cat([ends.new_zeros(1), ends, ends[-1:]]).int()
    return torch.cat(vertex_keys), points, offsets, torch.stack(ids, 1)


def _neighbours(vertex_keys: Tensor, *, strides: list[int], span: int) -> Tensor:
    """Find the vertices one step along each axis: -1 in every coordinate, +D in the axis' own."""
    num_vertices, size = len(vertex_keys), len(strides)
    neighbours = vertex_keys.new_full((size, 2, num_vertices + 1), num_vertices, dtype=torch.int32)
    residue_zero = vertex_keys < span
    # The step leads from residue r to r - 1 with the same a, but from residue 0 to D with every a one lower.
    common = torch.where(residue_zero, vertex_keys + ((size - 1) * span - sum(strides)), vertex_keys - span)
    rows = torch.arange(num_vertices, dtype=torch.int32, device=vertex_keys.device)
    for axis, stride in enumerate(strides):
        wanted = common + stride
        found = torch.searchsorted(vertex_keys, wanted, out_int32=True).clamp_(max=num_vertices - 1)
        following = torch.where(vertex_keys.index_select(0, found) == wanted, found, num_vertices)
        neighbours[axis, 0, :-1] = following
        # Absent neighbours all write to the last entry, which must remain itself.
        neighbours[axis, 1].scatter_(0, following.long(), rows)
        neighbours[axis, 1, -1] = num_vertices
    return neighbours
