"""Class activation maps multiplied by the self-similarity of every stage's features.

Shape letters: D channels, K classes, h w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wsss.ops.feature_spread import fuse_stages, spread_evidence
from wsss.ops.multi_scale import resize_bilinear


def self_similarity_cam(cam_Khw: Tensor, *, features: Sequence[Tensor]) -> Tensor:
    """M_k = mean_l resize(stretch(ReLU(A_l c_lk))) with A_l(p, q) = cos(G_l(p), G_l(q)); G_l are the features without
    their mean over the image, c_lk is the activation map on the grid of stage l, divided by its sum.

    Shapes: map [K,h,w], at least 0; features [D_l,h_l,w_l] of every stage l, fine to coarse; result [K,h_0,w_0] in
    [0, 1). K = 0 is allowed. No gradient is needed.

    Raises: ValueError for no stage and for other numbers of axes.

    Source: Sun and Li, 2021, arXiv 2111.03392 (SSA): the product of the map with the semantic correlations of each
    stage, fused over stages.  Differs: from its abstract; the correlation is the cosine of features without their mean,
    the map is resized bilinearly to each stage, and maps are stretched to [0, 1) before the mean (`feature_spread`).
    """
    if cam_Khw.ndim != 3 or any(of_stage.ndim != 3 for of_stage in features):
        raise ValueError(
            f"the map is {list(cam_Khw.shape)}, features {[list(f.shape) for f in features]}; allowed: [K,h,w] and "
            "[D,h,w] for every stage"
        )
    if not len(cam_Khw):
        return fuse_stages([f.new_zeros((0, *f.shape[1:])) for f in features])
    on_grids = [resize_bilinear(cam_Khw, size=(f.shape[1], f.shape[2])) for f in features]
    return fuse_stages([spread_evidence(c, features_Dhw=f) for f, c in zip(features, on_grids, strict=True)])
