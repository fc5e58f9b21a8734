"""Random walk of class scores over the mean of several transition matrices.

Shape letters: M matrices, K classes present, h w strided pixels, N = h*w nodes, P pixel pairs (half-plane offsets).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from wsss.ops.random_walk import transition


@torch.no_grad()
def mean_walk(seeds_Khw: Tensor, *, affinities: Sequence[Tensor], radius: int, num_steps_log2: int) -> Tensor:
    """seeds T^(2^num_steps_log2) with T = 1/M sum_m A_m / column sums of A_m: in each step of the walk, one of the
    matrices is drawn.

    seeds [K, h, w]; affinities: [P, h, w] each, as `wsss.ops.random_walk.propagate` reads them, powers included and 0
    at sources without a partner, on the same device; or those of several images, stacked vertically. Result float64
    [K, h, w]: every pixel is a weighted mean of its plane of seeds. With one matrix, or several equal ones, it is
    `propagate` up to rounding.

    Each A_m is symmetric, so each matrix alone has a real spectrum in [-1, 1]. Their stationary distributions differ
    (they are proportional to the column sums), so the mean's need not be real, and the Chebyshev sum that shortens
    `propagate` is not bounded: here the steps are taken one by one, 2^num_steps_log2 sparse products.

    Raises: ValueError without affinities, for affinities of other sizes than the seeds, or `num_steps_log2` < 0.
    Source: ours; the walk is that of Ahn et al., CVPR 2018 and 2019.
    """
    size = tuple(seeds_Khw.shape[1:])
    if not affinities or any(tuple(one.shape[1:]) != size for one in affinities) or num_steps_log2 < 0:
        raise ValueError(
            f"seeds are {list(seeds_Khw.shape)}, affinities {[list(one.shape) for one in affinities]}, num_steps_log2 "
            f"{num_steps_log2}; give at least one [P, h, w] with the seeds' h and w, and 0 or more"
        )
    seeds_KN = seeds_Khw.double().flatten(1)
    walk_NN = _mean([transition(one.double(), radius=radius) for one in affinities])
    out_NK = seeds_KN.t().contiguous()
    for _ in range(2**num_steps_log2):
        out_NK = torch.mm(walk_NN, out_NK)
    # A mean is between the extremes; rounding may slightly exceed them.
    out_KN = torch.minimum(torch.maximum(out_NK.t(), seeds_KN.amin(1, True)), seeds_KN.amax(1, True))
    return out_KN.reshape(seeds_Khw.shape)


def _mean(walks: Sequence[Tensor]) -> Tensor:
    """The mean of sparse matrices [N, N] of the same layout."""
    first = walks[0]
    values_E = torch.stack([one.values() for one in walks]).mean(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(
            first.crow_indices(), first.col_indices(), values_E, size=first.shape, check_invariants=False
        )
