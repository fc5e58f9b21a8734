"""Symmetric cross entropy: cross entropy, and the same with prediction and label exchanged, for noisy labels.

Shape letters: B batch, C classes, H W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def symmetric_cross_entropy(
    logits_BCHW: Tensor, *, label_BHW: Tensor, alpha: float, beta: float, log_zero: float, ignore_index: int
) -> Tensor:
    """alpha * CE + beta * RCE of every pixel, [B,H,W]; 0 where the label is `ignore_index`.

        CE = -log p_y;   RCE = -sum_c p_c log q_c = -A (1 - p_y),   p = softmax(l), q one-hot at y, log 0 := A < 0

    RCE is bounded by -A and its gradient, A p_y (1 - p_y) with respect to l_y, vanishes for labels that the network is
    sure are wrong; CE still lets hard classes be learned.

    Logits float [B,C,H,W], label i64 [B,H,W]; `log_zero` is A. Computed from CE alone, so it is finite for any logits.

    Raises: ValueError for alpha or beta below 0, both 0, or A that is not below 0.
    Source: Wang et al., ICCV 2019, eq. 5 to 7.  Differs: as published; the authors' code clips q at 1e-4, which is
    A = -9.2, and p at 1e-7.
    """
    if alpha < 0 or beta < 0 or alpha + beta == 0 or log_zero >= 0:
        raise ValueError(
            f"alpha = {alpha}, beta = {beta}, log_zero = {log_zero}; allowed: weights of at least 0, not both 0, and a "
            "logarithm below 0"
        )
    cross_entropy_BHW = F.cross_entropy(logits_BCHW, label_BHW, ignore_index=ignore_index, reduction="none")
    reverse_BHW = log_zero * (-cross_entropy_BHW).expm1()  # 1 - p_y = -expm1(-CE); 0 where CE is 0
    return alpha * cross_entropy_BHW + beta * reverse_BHW
