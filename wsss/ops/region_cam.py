"""Region-CAM: gradients say where a class is, features say which positions belong together, in every stage.

Shape letters: B batch, D channels, K classes, h w pixels of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wsss.ops.feature_spread import fuse_stages, spread_evidence


def semantic_information(gradient_BDhw: Tensor) -> Tensor:
    """S(q) = sum_d ReLU(G_d(q)), G the gradient of a class's logit with respect to a stage's features.

    Shapes: [B,D,h,w]; result [B,h,w], at least 0.

    Source: Cai and Abhayaratne, 2025, arXiv 2510.25134 (Region-CAM), semantic information maps.  Differs: as published.
    """
    return gradient_BDhw.relu().sum(dim=-3)


def region_cam(features: Sequence[Tensor], *, evidence: Sequence[Tensor]) -> Tensor:
    """M_k = mean_l resize(stretch(P_lk)), P_lk(p) = ReLU(mean over q, weighted by S_lk(q), of cos(G_l(p), G_l(q))) with
    G_l the features F_l without their mean over the image.

    Shapes: features [D_l,h_l,w_l] of every stage l, fine to coarse; evidence S_l [K,h_l,w_l], at least 0; result
    [K,h_0,w_0] in [0, 1), of the features' dtype. K = 0 is allowed.

    For the layer that the classifier's head reads, give ReLU(sum_d w_kd F_d), the class activation map, as evidence: of
    a linear head after average pooling, the gradient is the same at every position and says nothing about where.

    Raises: ValueError for no stage, another number of maps, and shapes that do not fit.

    Source: Cai and Abhayaratne, 2025, arXiv 2510.25134 (Region-CAM): evidence from gradients, propagated along the
    features' similarity in each stage, fused over stages.  Differs: the paper's similarity and its fusion were not
    available, nor is there code. Ours: cosine similarity of features without their mean, evidence weighted to a mean,
    maps stretched to [0, 1), and the mean over stages (`feature_spread`); the last layer's evidence is its activation
    map.
    """
    if len(features) != len(evidence):
        raise ValueError(f"{len(features)} stages and evidence for {len(evidence)}; give a map of evidence per stage")
    return fuse_stages([spread_evidence(e, features_Dhw=f) for f, e in zip(features, evidence, strict=True)])
