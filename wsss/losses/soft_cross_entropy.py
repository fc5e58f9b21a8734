"""Cross entropy against probabilities instead of classes.

Shape letters: B batch, C classes, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.losses.masked_mean import MaskedSum


def soft_cross_entropy_sum(logits_BCHW: Tensor, *, target_BCHW: Tensor, valid_BHW: Tensor | None) -> MaskedSum:
    """Sum over valid pixels of -sum_c q_c log softmax(l)_c; the target q is always a constant.

    Without the stop-gradient, a target computed from the same logits would be trained towards them. For one-hot q it
    is the ordinary cross entropy.

    Logits float [B,C,H,W]; target float [B,C,H,W] in [0,1], adding up to 1 over C; valid bool [B,H,W] (False for
    padding and undecided pixels) or None for all. Numerator scalar with a gradient for the logits alone; count int64
    scalar, the number of valid pixels.

    Raises: ValueError for shapes that do not fit.
    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), the term of the weak set.  Differs: pixels may be
    excluded.
    """
    expected = (len(logits_BCHW), *logits_BCHW.shape[2:])
    if logits_BCHW.shape != target_BCHW.shape or (valid_BHW is not None and valid_BHW.shape != expected):
        raise ValueError(
            f"logits are {list(logits_BCHW.shape)}, targets {list(target_BCHW.shape)}, valid pixels "
            f"{None if valid_BHW is None else list(valid_BHW.shape)}; give [B,C,H,W] twice, and [B,H,W] or None"
        )
    cost_BHW = F.cross_entropy(logits_BCHW, target_BCHW.detach(), reduction="none")
    if valid_BHW is None:
        return MaskedSum(cost_BHW.sum(), torch.tensor(cost_BHW.numel(), device=cost_BHW.device))
    return MaskedSum(cost_BHW.where(valid_BHW, 0.0).sum(), valid_BHW.sum())
