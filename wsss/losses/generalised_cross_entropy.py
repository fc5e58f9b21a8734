"""Generalised cross entropy: between cross entropy and the mean absolute error, for noisy labels.

Shape letters: B batch, C classes, H W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def generalised_cross_entropy(logits_BCHW: Tensor, *, label_BHW: Tensor, exponent: float, ignore_index: int) -> Tensor:
    """(1 - p_y^q) / q of every pixel, p = softmax(l): [B,H,W]; 0 where the label is `ignore_index`.

    The limit for q -> 0 is cross entropy, -log p_y; with q = 1 it is 1 - p_y, half of the mean absolute error. Its
    gradient is that of cross entropy times p_y^q, so labels that the network believes less count less. At most 1 / q.

    Logits float [B,C,H,W], label i64 [B,H,W]; `exponent` is q. Computed from log p_y, so it is exact for small q and
    finite for any logits.

    Raises: ValueError for q outside (0, 1].
    Source: Zhang and Sabuncu, NeurIPS 2018, eq. 6.  Differs: as published, without the truncation of section 3.3, which
    drops labels with p_y below a constant.
    """
    if not 0 < exponent <= 1:
        raise ValueError(f"exponent = {exponent}; allowed: above 0 and at most 1 (published: 0.7)")
    cross_entropy_BHW = F.cross_entropy(logits_BCHW, label_BHW, ignore_index=ignore_index, reduction="none")
    return -(-exponent * cross_entropy_BHW).expm1() / exponent
