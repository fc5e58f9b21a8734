"""Random walk of class scores over the pixel affinities of a boundary map.

Shape letters: B images, K classes present, h w strided pixels, N = h*w nodes, P pixel pairs (half-plane offsets), E
entries of the transition matrix.

Several images of one size are processed as one: stacked vertically, with affinities of 0 between them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from wsss.ops.affinity import path_minimum
from wsss.ops.feature_affinity import feature_affinity
from wsss.ops.pixel_pairs import half_plane_offsets, in_image_window


class Neighbourhood(NamedTuple):
    """Sparsity pattern of the N x N operator (compressed rows), and the pair of each entry."""

    row_starts: Tensor
    """[N+1] int32."""
    columns: Tensor
    """[E] int32, ascending within a row."""
    pairs: Tensor
    """[E] int64, position in the flattened [P+1, N] pair values; plane P holds the diagonal."""


@torch.no_grad()
def random_walk(scores_Khw: Tensor, *, edge_hw: Tensor, radius: int, beta: float, num_steps_log2: int) -> Tensor:
    """Spread class scores over pixels that no boundary separates.

    A_ij = 1 - max over path(i, j) of edge, A_ii = 1;  T = A^beta / column sums of A^beta;
    out = (scores * (1 - edge)) T^(2^num_steps_log2)

    scores [K, h, w] float, K >= 0, any size from one pixel; edge [h, w] float, boundary probability in [0, 1], same
    device -> [K, h, w], the dtype of scores but at least float32; or all with [B, ...] in front, for images of one
    size that are processed together (faster on a GPU). Each output is a weighted mean of its plane of
    scores * (1 - edge). No gradient. Linear memory: at its peak about 40 bytes for each of the at most N (2P + 1)
    entries of T, of which 12 are cached for each of the last few grid sizes. Computed in float64, which costs the same
    for a few classes; 256 steps in float32 would be off by up to 1e-4 of the maximum.

    Raises: ValueError if shapes disagree, `radius` < 1, `beta` <= 0 or `num_steps_log2` < 0.
    Source: Ahn et al., CVPR 2019 (IRNet), eq. 4 and 14; Ahn & Kwak, CVPR 2018 (AffinityNet), eq. 5 and 6.
    Differs: result as published. The public code squares the dense matrix; here the power is summed as Chebyshev
    polynomials of the sparse one, omitting only terms below the rounding of the dtype (see `chebyshev_power`).
    """
    if scores_Khw.ndim == 3:
        together = random_walk(
            scores_Khw[None], edge_hw=edge_hw[None], radius=radius, beta=beta, num_steps_log2=num_steps_log2
        )
        return together[0]
    _check_walk(scores_Khw, size=tuple(edge_hw.shape[-2:]), num_maps=len(edge_hw), beta=beta)
    permeability_Bhw = 1 - edge_hw.double()
    affinities = [edge_affinity(one_hw, radius=radius, beta=beta) for one_hw in permeability_Bhw]
    return _propagate_stacked(
        scores_Khw,
        seeds_BKhw=scores_Khw * permeability_Bhw[:, None],
        affinities=affinities,
        radius=radius,
        num_steps_log2=num_steps_log2,
    )


@torch.no_grad()
def feature_walk(scores_Khw: Tensor, *, features_Dhw: Tensor, radius: int, beta: float, num_steps_log2: int) -> Tensor:
    """Spread class scores over pixels of similar features.

    A_ij = exp(-mean_d |f_d(i) - f_d(j)|), A_ii = 1;  T = A^beta / column sums;  out = scores T^(2^num_steps_log2)

    scores [K, h, w] float, features [D, h, w] float, same device -> [K, h, w], as `random_walk` gives it; or all with
    [B, ...] in front.

    Raises: ValueError as `random_walk` does.
    Source: Ahn and Kwak, CVPR 2018 (AffinityNet), eq. 5 and 6, and its public code.
    Differs: pixels near the border have all their pairs inside the image; the public code omits some: pixels within
    `radius` - 1 of the left, right and bottom border are never the first of a pair.
    """
    if scores_Khw.ndim == 3:
        together = feature_walk(
            scores_Khw[None], features_Dhw=features_Dhw[None], radius=radius, beta=beta, num_steps_log2=num_steps_log2
        )
        return together[0]
    _check_walk(scores_Khw, size=tuple(features_Dhw.shape[-2:]), num_maps=len(features_Dhw), beta=beta)
    affinities = [feature_affinity(one_Dhw, radius=radius).double().pow(beta) for one_Dhw in features_Dhw]
    return _propagate_stacked(
        scores_Khw,
        seeds_BKhw=scores_Khw.double(),
        affinities=affinities,
        radius=radius,
        num_steps_log2=num_steps_log2,
    )


def _propagate_stacked(
    scores_BKhw: Tensor, *, seeds_BKhw: Tensor, affinities: Sequence[Tensor], radius: int, num_steps_log2: int
) -> Tensor:
    """`propagate` for images stacked vertically; affinities [P, h, w] are 0 where a partner lies outside its image."""
    dtype = torch.promote_types(scores_BKhw.dtype, torch.float32)
    if scores_BKhw.numel() == 0:
        return scores_BKhw.to(dtype, copy=True)
    walked = propagate(
        seeds_BKhw.transpose(0, 1).flatten(1, 2),
        affinity_Phw=torch.cat(list(affinities), dim=1),
        radius=radius,
        num_steps_log2=num_steps_log2,
        tolerance=torch.finfo(dtype).eps,
    )
    return walked.unflatten(1, (len(scores_BKhw), -1)).transpose(0, 1).to(dtype)


@torch.no_grad()
def propagate(seeds_Khw: Tensor, *, affinity_Phw: Tensor, radius: int, num_steps_log2: int, tolerance: float) -> Tensor:
    """seeds T^(2^num_steps_log2) with T = A / column sums of A, from the affinities of all pairs.

    seeds [K, h, w]; affinities [P, h, w] at the source of each pair of `half_plane_offsets`, powers included, and 0
    at sources without a partner in the image: the column sums count them. Both are float64, and so is the result.
    `tolerance`: as for `chebyshev_power`.

    Raises: ValueError if `num_steps_log2` < 0.
    """
    if num_steps_log2 < 0:
        raise ValueError(f"num_steps_log2 is {num_steps_log2}; it must be 0 or more (published: 8, for 256 steps)")
    seeds_KN = seeds_Khw.flatten(1)
    walk_NN = transition(affinity_Phw, radius=radius)
    weights = chebyshev_power(2**num_steps_log2, tolerance=tolerance)
    out_NK = _apply_polynomial(walk_NN, vectors_NK=seeds_KN.t().contiguous(), weights=weights)
    # A mean is between the extremes; rounding may slightly exceed them.
    out_KN = torch.minimum(torch.maximum(out_NK.t(), seeds_KN.amin(1, True)), seeds_KN.amax(1, True))
    return out_KN.reshape(seeds_Khw.shape)


def edge_affinity(permeability_hw: Tensor, *, radius: int, beta: float) -> Tensor:
    """Affinities of all pairs [P, h, w] along their paths, to the power of beta; permeability = 1 - edge [h, w].

    The power is taken before the path minimum, on N values instead of N P: it is monotone, so they commute.
    """
    return path_minimum(permeability_hw.pow(beta), radius=radius)


def transition(affinity_Phw: Tensor, *, radius: int) -> Tensor:
    """The walk's operator, transposed: T^t = diag(1 / c) A with c the sums of A, which is symmetric with diagonal 1.

    affinities [P, h, w] as for `propagate` -> sparse CSR [N, N]; every row sums to one.
    """
    _, h, w = affinity_Phw.shape
    layout = neighbourhood((h, w), radius=radius, device=affinity_Phw.device)
    diagonal_1hw = affinity_Phw.new_ones(1, h, w)
    entries_E = torch.cat([affinity_Phw, diagonal_1hw]).view(-1).index_select(0, layout.pairs)
    totals_N = _row_sums(affinity_Phw, radius=radius).view(-1)
    entries_E /= totals_N.repeat_interleave(layout.row_starts.diff(), output_size=entries_E.numel())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(
            layout.row_starts, layout.columns, entries_E, size=(h * w, h * w), check_invariants=False
        )


def _row_sums(values_Phw: Tensor, *, radius: int) -> Tensor:
    """Sum over all neighbours of each pixel, itself (weight 1) included: [h, w]."""
    h, w = values_Phw.shape[1:]
    totals_hw = values_Phw.sum(0) + 1
    for values_hw, offset in zip(values_Phw, half_plane_offsets(radius), strict=True):
        window = in_image_window((h, w), offset=offset)
        totals_hw[window.shifted(offset)] += values_hw[window.shifted((0, 0))]
    return totals_hw


@lru_cache(maxsize=4)
def neighbourhood(size: tuple[int, int], *, radius: int, device: torch.device) -> Neighbourhood:
    """Layout of the operator of an image of `size` (h, w): all pairs inside the image, none outside.

    Cached for the last four sizes, since images of a data set have few sizes.
    """
    h, w = size
    half = half_plane_offsets(radius)
    backward = [(-dy, -dx, pair, True) for pair, (dy, dx) in enumerate(half)]
    forward = [(dy, dx, pair, False) for pair, (dy, dx) in enumerate(half)]
    # Row-major order of the offsets makes the columns of each row ascend.
    taps = sorted([*backward, (0, 0, len(half), False), *forward])
    dy, dx, pair, is_backward = torch.tensor(taps, device=device, dtype=torch.int32).unbind(1)
    row = torch.arange(h, device=device, dtype=torch.int32).view(h, 1, 1)
    column = torch.arange(w, device=device, dtype=torch.int32).view(1, w, 1)
    row_fits = (row + dy >= 0) & (row + dy < h)
    column_fits = (column + dx >= 0) & (column + dx < w)
    fits = (row_fits & column_fits).view(h * w, len(taps))
    node = torch.arange(h * w, device=device, dtype=torch.int32).view(h * w, 1)
    step = dy * w + dx
    row_starts = torch.zeros(h * w + 1, device=device, dtype=torch.int32)
    row_starts[1:] = fits.sum(1).cumsum(0)
    # The value of a pair is stored at its source: here for forward taps, at the partner for backward ones.
    pairs = pair.long() * (h * w) + node + is_backward * step
    return Neighbourhood(row_starts, (node + step).masked_select(fits), pairs.masked_select(fits))


def _apply_polynomial(matrix_NN: Tensor, *, vectors_NK: Tensor, weights: tuple[float, ...]) -> Tensor:
    """sum_k weights_k T_k(matrix) @ vectors, by the recurrence T_(k+1) = 2 M T_k - T_(k-1)."""
    before_NK, now_NK = vectors_NK.clone(), torch.mm(matrix_NN, vectors_NK)
    total_NK = weights[0] * before_NK
    for degree in range(1, len(weights)):
        if weights[degree]:
            total_NK.add_(now_NK, alpha=weights[degree])
        if degree + 1 < len(weights):
            before_NK.addmm_(matrix_NN, now_NK, beta=-1, alpha=2)
            before_NK, now_NK = now_NK, before_NK
    return total_NK


@lru_cache(maxsize=32)
def chebyshev_power(num_steps: int, *, tolerance: float) -> tuple[float, ...]:
    """Weights w_k with x^num_steps = sum_k w_k T_k(x), truncated when the rest sums to at most `tolerance`.

    w_k = 2 C(n, (n - k) / 2) / 2^n for k = n, n - 2, ...; half of that for k = 0.

    The weights are the distribution of the distance from zero after n coin tosses, so about sqrt(2 n ln(2 / tolerance))
    of them matter: 84 instead of 256 at float32. |T_k| <= 1 on [-1, 1], which contains the spectrum of a reversible
    walk, hence truncation changes the result by at most `tolerance` in the norm of the walk's stationary distribution.

    Source: Sachdeva & Vishnoi, Faster Algorithms via Approximation Theory, 2014, theorem 3.3.
    Differs: truncated by the exact remaining sum instead of its bound.
    """
    weights = [0.0] * (num_steps + 1)
    for degree in range(num_steps % 2, num_steps + 1, 2):
        ways = math.comb(num_steps, (num_steps - degree) // 2)
        weights[degree] = (ways if degree == 0 else 2 * ways) / 2**num_steps
    rest = 0.0
    while rest + weights[-1] <= tolerance:
        rest += weights.pop()
    return tuple(weights)


def _check_walk(scores_BKhw: Tensor, *, size: tuple[int, ...], num_maps: int, beta: float) -> None:
    if scores_BKhw.ndim != 4 or tuple(scores_BKhw.shape[2:]) != size or len(scores_BKhw) != num_maps:
        raise ValueError(
            f"scores have shape {tuple(scores_BKhw.shape[1:])} and the edge or features {size}; they must be "
            f"[K, h, w] and [h, w] of one grid: resize one of them. Images: {len(scores_BKhw)} and {num_maps}"
        )
    if beta <= 0:
        raise ValueError(f"beta is {beta}; it must be above 0 (published: 10)")
