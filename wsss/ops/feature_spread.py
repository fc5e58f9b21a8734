"""Evidence for a class, spread over positions with similar features; fusion of the maps of an encoder's stages.

Shape letters: D channels, K classes, h w pixels of a stage, p q positions of its N = h w.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsss.ops.multi_scale import resize_bilinear

_EPS = 1e-5


def spread_evidence(evidence_Khw: Tensor, *, features_Dhw: Tensor) -> Tensor:
    """P_k(p) = ReLU(sum_q w_k(q) cos(G(p), G(q))), G = F - mean_q F, w_k(q) = E_k(q) / sum_q' E_k(q'): evidence at q
    counts at all positions p as much as their features differ from the image's mean in the same direction.

    The cosine is linear in each unit vector u = G / |G|, so the sum is the product with one vector per class:
    P_k(p) = ReLU(<u(p), sum_q w_k(q) u(q)>). That is exact, takes 4 K D N operations, and no matrix of N x N is made.

    Shapes: evidence [K,h,w], at least 0; features [D,h,w]; result [K,h,w] in [0, 1], of the features' dtype. Zeros for
    a class without evidence, at a position whose features are the mean's, and on a grid of one position.

    Raises: ValueError for shapes that do not fit.

    Source: the product of a map with its features' self-similarity: Sun and Li, 2021, arXiv 2111.03392 (SSA); Cai and
    Abhayaratne, 2025, arXiv 2510.25134 (Region-CAM).  Differs: features without their mean over the image, since after
    a ReLU all of them are alike: the cosine of any two is far above 0. The ReLU is outside the sum, not on each
    similarity, for which N x N numbers would be needed.
    """
    if evidence_Khw.ndim != 3 or features_Dhw.ndim != 3 or evidence_Khw.shape[1:] != features_Dhw.shape[1:]:
        raise ValueError(
            f"evidence is {list(evidence_Khw.shape)}, features {list(features_Dhw.shape)}; allowed: [K,h,w] and "
            "[D,h,w] of one grid"
        )
    features_DN = features_Dhw.flatten(1)
    features_DN = features_DN - features_DN.mean(dim=1, keepdim=True)
    evidence_KN = evidence_Khw.flatten(1).to(features_DN.dtype)
    tiny = torch.finfo(features_DN.dtype).tiny
    length_N = torch.linalg.vector_norm(features_DN, dim=0).clamp_min(tiny)
    weights_KN = evidence_KN / evidence_KN.sum(dim=1, keepdim=True).clamp_min(tiny)
    prototypes_KD = (weights_KN / length_N) @ features_DN.T
    spread_KN = (prototypes_KD @ features_DN) / length_N
    return spread_KN.relu().reshape(evidence_Khw.shape)


def stretch(maps_Khw: Tensor, *, eps: float = _EPS) -> Tensor:
    """(M_k - min_q M_k(q)) / (max_q M_k(q) - min_q M_k(q) + eps), in [0, 1); a constant map becomes zeros.

    Shapes: [K,h,w] in and out, K = 0 allowed.

    Source: code of Li et al., ICCV 2021 (PMM).  Differs: as published.
    """
    low = maps_Khw.amin(dim=(-2, -1), keepdim=True)
    return (maps_Khw - low) / (maps_Khw.amax(dim=(-2, -1), keepdim=True) - low + eps)


def fuse_stages(maps: Sequence[Tensor]) -> Tensor:
    """mean_l resize(stretch(M_l)): the mean of all stages' maps, each stretched to [0, 1), on the first stage's grid.

    Shapes: [K,h_l,w_l] each; result [K,h_0,w_0] in [0, 1). K = 0 is allowed.

    Raises: ValueError for no stage.

    Source: Sun and Li, 2021 (SSA), which fuses stages by their mean.  Differs: maps are stretched beforehand, so that
    each stage has the same weight.
    """
    if not maps:
        raise ValueError("there is no stage to fuse; give the maps of at least one")
    size = (maps[0].shape[-2], maps[0].shape[-1])
    if not maps[0].shape[0]:
        return maps[0]
    return torch.stack([resize_bilinear(stretch(of_stage), size=size) for of_stage in maps]).mean(dim=0)
