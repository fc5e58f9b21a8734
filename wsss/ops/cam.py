"""Class activation maps.

Shape letters: B batch, C classes, K requested classes, D channels, h w strided pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def class_activation_map(features: Tensor, *, weights_CD: Tensor, classes: Sequence[int]) -> Tensor:
    """Evidence for each requested class at each position: M_k = ReLU(sum_d w_kd x_d).

    Shapes: features [D,h,w] or [B,D,h,w], `weights_CD` of the bias-free linear layer after global average pooling;
    result [K,h,w] or [B,K,h,w], of the features' dtype, in [0, inf). `classes` are class ids 1..C in any order; id c
    reads row c - 1. No class gives a result with K = 0.

    Raises: ValueError for another number of axes or channels, and for ids outside 1..C.

    Source: Zhou et al., CVPR 2016, eq. 2; the ReLU is that of Ahn et al., CVPR 2019 (irn).  Differs: as published.
    """
    if features.ndim not in (3, 4) or features.shape[-3] != weights_CD.shape[1]:
        raise ValueError(
            f"features are {list(features.shape)}; allowed: [D,h,w] or [B,D,h,w] with D = {weights_CD.shape[1]}, "
            "the channels that the classifier's weights read"
        )
    rows = class_rows(classes, num_rows=weights_CD.shape[0]).to(weights_CD.device)
    maps = torch.einsum("kd,...dhw->...khw", weights_CD.index_select(0, rows).to(features.dtype), features)
    return maps.relu()


def normalise_per_class(maps_Khw: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Divide every map by its own spatial maximum: M_k / (max_q M_k(q) + eps), in [0, 1) for maps >= 0.

    Shapes: [...,h,w] in and out. A map of zeros stays zero. `eps` keeps the division finite and is irn's.

    Source: Ahn et al., CVPR 2019, code of irn (step/make_cam).  Differs: as published.
    """
    return maps_Khw / (maps_Khw.amax(dim=(-2, -1), keepdim=True) + eps)


def normalise_globally(maps_Khw: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Divide all maps of an image by their common maximum: M_k / (max_kq M_k(q) + eps), in [0, 1) for maps >= 0.

    Shapes: [K,h,w] in and out, K = 0 allowed. A class with a weaker activation than another stays weaker.

    Source: code of NoPeopleAllowed, LID challenge 2020 (third place).  Differs: `eps`, as in `normalise_per_class`.
    """
    if maps_Khw.numel() == 0:
        return maps_Khw
    return maps_Khw / (maps_Khw.amax() + eps)


def class_rows(classes: Sequence[int], *, num_rows: int) -> Tensor:
    """Classifier rows (class id - 1) of class ids, int64 [K]; ValueError for an id outside 1..num_rows."""
    wrong = [int(c) for c in classes if not 1 <= int(c) <= num_rows]
    if wrong:
        raise ValueError(
            f"classes has {wrong}; allowed: class ids 1..{num_rows} (0 is the background, 255 ignore; "
            "add 1 to a column of the classifier)"
        )
    return torch.tensor([int(c) - 1 for c in classes], dtype=torch.int64)
