"""Cross entropy on a teacher's labels where the teacher is confident.

Shape letters: B batch, C classes, H W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wsss.losses.masked_mean import MaskedSum


def consistency_sum(
    logits_BCHW: Tensor, *, label_BHW: Tensor, confidence_BHW: Tensor, inside_BHW: Tensor, min_confidence: float
) -> MaskedSum:
    """Sum over the pixels inside the image of 1[q >= m] * -log softmax(l)_y, and the number of pixels inside.

    y is the teacher's label, q its confidence, m `min_confidence`. The mean is over all pixels inside, not only the
    confident ones: a teacher that is confident of little has little weight.

    Logits float [B,C,H,W] of the student; label i64 [B,H,W] in 0..C-1; confidence float [B,H,W] in [0,1]; inside bool
    [B,H,W], false for padding. Numerator scalar with a gradient for the logits alone; count int64 scalar.

    Raises: ValueError for maps of another shape than the logits'.
    Source: Sohn et al., NeurIPS 2020 (FixMatch), eq. 4; for pixels Yang et al., CVPR 2023 (UniMatch), eq. 2, and its
    public code, which divides by the pixels inside the image.  Differs: as published.
    """
    expected = (len(logits_BCHW), *logits_BCHW.shape[2:])
    shapes = {"label": label_BHW, "confidence": confidence_BHW, "inside": inside_BHW}
    if wrong := {name: list(value.shape) for name, value in shapes.items() if value.shape != expected}:
        raise ValueError(f"logits are {list(logits_BCHW.shape)}, but {wrong}; each must be {list(expected)}")
    cost_BHW = F.cross_entropy(logits_BCHW, label_BHW, reduction="none")
    taught_BHW = inside_BHW & (confidence_BHW >= min_confidence)
    return MaskedSum(cost_BHW.where(taught_BHW, 0.0).sum(), inside_BHW.sum())
