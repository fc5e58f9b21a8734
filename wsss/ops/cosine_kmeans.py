"""Clusters of feature vectors by their cosine.

Shape letters: N vectors, D channels, K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def cosine_kmeans(
    features_ND: Tensor, *, num_clusters: int, num_iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Repeat a(n) = argmax_k cos(x_n, c_k), then c_k = mean of the x_n with a(n) = k, from c_k that are vectors drawn
    without replacement.

    Shapes: features [N,D] float on the CPU, any N >= 0 -> centres [K,D] of their dtype, and the number of vectors of
    each cluster, int64 [K], at least 1. K <= min(num_clusters, N): empty clusters are left out. Centres are means of
    the vectors themselves, not of their directions, so that they have the length of a feature. It stops before
    `num_iterations` if no vector changes its cluster. The result depends on the order of the vectors and on `generator`
    alone; a vector that is as near to two centres goes to the first, and one of zeros to the first of all.

    Raises: ValueError for another number of axes, and for less than one cluster or iteration.
    Source: Chen and Sun, CVPR 2023 (LPCAM): its public code clusters with the package kmeans_pytorch, distance
    "cosine", which also starts from vectors of the data and takes means of them.
    Differs: a fixed number of iterations (there: until the centres move by less than a tolerance); a cluster that
    becomes empty keeps its centre, and is left out at the end if it is still empty.
    """
    if features_ND.ndim != 2 or num_clusters < 1 or num_iterations < 1:
        raise ValueError(
            f"features are {list(features_ND.shape)}, num_clusters {num_clusters}, num_iterations {num_iterations}; "
            "allowed: [N,D], and at least 1 for both"
        )
    first = torch.randperm(len(features_ND), generator=generator)[:num_clusters]
    centres_KD = features_ND[first]
    if not len(features_ND):
        return centres_KD, torch.zeros(0, dtype=torch.int64)
    directions_ND = functional.normalize(features_ND, dim=1)
    assigned_N = _nearest(directions_ND, centres_KD)
    for _ in range(num_iterations):
        centres_KD = _means(features_ND, assigned_N, before_KD=centres_KD)
        nearest_N = _nearest(directions_ND, centres_KD)
        if torch.equal(nearest_N, assigned_N):
            break
        assigned_N = nearest_N
    sizes_K = torch.bincount(assigned_N, minlength=len(centres_KD))
    return centres_KD[sizes_K > 0], sizes_K[sizes_K > 0]


def _nearest(directions_ND: Tensor, centres_KD: Tensor) -> Tensor:
    return (directions_ND @ functional.normalize(centres_KD, dim=1).T).argmax(dim=1)


def _means(features_ND: Tensor, assigned_N: Tensor, *, before_KD: Tensor) -> Tensor:
    """The mean of each cluster; an empty one keeps its centre."""
    sizes_K1 = torch.bincount(assigned_N, minlength=len(before_KD))[:, None]
    sums_KD = torch.zeros_like(before_KD).index_add_(0, assigned_N, features_ND)
    return torch.where(sizes_K1 > 0, sums_KD / sizes_K1.clamp_min(1), before_KD)
