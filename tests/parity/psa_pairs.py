"""The pairs of pixels of AffinityNet's public code."""

from __future__ import annotations

import torch
from torch import Tensor

from wsss.ops.feature_affinity import feature_affinity
from wsss.ops.pixel_pairs import half_plane_offsets, interior_window


def published_pairs(features_Dhw: Tensor, *, radius: int) -> Tensor:
    """Affinities [P, h, w] of the pairs that the public code uses in the walk: those with interior sources."""
    size = (features_Dhw.shape[1], features_Dhw.shape[2])
    source = interior_window(size, radius=radius).shifted((0, 0))
    kept_Phw = torch.zeros(len(half_plane_offsets(radius)), *size, dtype=torch.float64)
    kept_Phw[:, *source] = feature_affinity(features_Dhw, radius=radius).double()[:, *source]
    return kept_Phw
