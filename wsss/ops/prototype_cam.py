"""LPCAM: maps from the similarity of features to prototypes of a class, less that to prototypes of its context.

Shape letters: K clusters or classes, P prototypes, Q context prototypes, L learned classes, D channels, h w pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def class_response(centres_KD: Tensor, *, weights_LD: Tensor, row: int) -> Tensor:
    """r_k = softmax_l(w_l c_k) at l = row: how sure the classifier is of one class if a centre were an image's pooled
    feature.

    Shapes: centres [K,D], K = 0 allowed, `weights_LD` of the bias-free linear layer after global average pooling; `row`
    is the class's row of it; result [K] in [0, 1]. With one class, L = 1, every response is 1.

    Raises: ValueError for shapes that do not fit, and for a row outside the weights.
    Source: Chen and Sun, CVPR 2023 (LPCAM), and its public code.  Differs: as published.
    """
    if centres_KD.ndim != 2 or centres_KD.shape[1] != weights_LD.shape[1] or not 0 <= row < len(weights_LD):
        raise ValueError(
            f"centres are {list(centres_KD.shape)}, weights {list(weights_LD.shape)}, row {row}; allowed: [K,D] and "
            "[L,D] of the same D, and a row from 0 to L - 1"
        )
    return torch.softmax(centres_KD @ weights_LD.T, dim=1)[:, row]


def kept_prototypes(centres_KD: Tensor, *, response_K: Tensor, threshold: float) -> Tensor:
    """The centres whose response is above the threshold, [P,D]; if there is none, the one with the largest response.

    P >= 1 if there is any centre.

    Source: Chen and Sun, CVPR 2023 (LPCAM); its public code for COCO keeps the largest where none is above.
    Differs: as published for COCO; the code for VOC has no prototype then, and fails.
    """
    kept_K = response_K > threshold
    if len(response_K) and not kept_K.any():
        kept_K = torch.arange(len(response_K), device=response_K.device) == response_K.argmax()
    return centres_KD[kept_K]


def kept_contexts(centres_KD: Tensor, *, response_K: Tensor, lower: float, upper: float) -> Tensor:
    """The centres with lower < response < upper, [Q,D], Q >= 0: what is seen with a class, but is not the class.

    Source: Chen and Sun, CVPR 2023 (LPCAM), public code.  Differs: as published.
    """
    return centres_KD[(response_K > lower) & (response_K < upper)]


def prototype_direction(prototypes_PD: Tensor, *, contexts_QD: Tensor) -> Tensor:
    """v = mean_p P_p / |P_p| - mean_q B_q / |B_q|, the vector [D] for which v f / |f| is the mean cosine to the
    prototypes less that to the context prototypes.

    Without a context prototype the second mean is left out; without a prototype v is zero.

    Raises: ValueError for shapes that do not fit.
    Source: ours; the mean of cosines of Chen and Sun, CVPR 2023 (LPCAM), summed before the product with the features.
    Differs: same values, one product for each class instead of one for each prototype.
    """
    if prototypes_PD.ndim != 2 or contexts_QD.ndim != 2 or prototypes_PD.shape[1] != contexts_QD.shape[1]:
        raise ValueError(
            f"prototypes are {list(prototypes_PD.shape)}, contexts {list(contexts_QD.shape)}; allowed: [P,D] and [Q,D]"
        )
    if not len(prototypes_PD):
        return prototypes_PD.new_zeros(prototypes_PD.shape[1])
    own_D = functional.normalize(prototypes_PD, dim=1).mean(dim=0)
    return own_D - functional.normalize(contexts_QD, dim=1).mean(dim=0) if len(contexts_QD) else own_D


def prototype_cam(features_Dhw: Tensor, *, directions_KD: Tensor) -> Tensor:
    """M_k = ReLU(mean_p cos(f, P_kp) - mean_q cos(f, B_kq)) = ReLU(v_k f / |f|), with v_k of `prototype_direction`.

    Shapes: features [D,h,w] of the layer that the classifier's head reads; directions [K,D]; result [K,h,w] of the
    features' dtype, in [0, 2]. K = 0 is allowed. A position whose features are all zero has 0. Only the direction of a
    feature counts, not its length, so that a weakly active part of an object can have a high value.

    Raises: ValueError for shapes that do not fit.
    Source: Chen and Sun, CVPR 2023 (LPCAM), and its public code.
    Differs: the ReLU is also taken for a class without context prototypes, whose cosines can be negative in encoders
    that do not end with a ReLU.
    """
    if features_Dhw.ndim != 3 or directions_KD.ndim != 2 or directions_KD.shape[1] != features_Dhw.shape[0]:
        raise ValueError(
            f"features are {list(features_Dhw.shape)}, directions {list(directions_KD.shape)}; allowed: [D,h,w] and "
            "[K,D] of the same D"
        )
    unit_Dhw = functional.normalize(features_Dhw, dim=0)
    return torch.einsum("kd,dhw->khw", directions_KD.to(unit_Dhw.dtype), unit_Dhw).relu()
