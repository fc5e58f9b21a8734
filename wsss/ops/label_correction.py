"""Noisy labels that are replaced by a teacher's, for the classes of which the network begins to learn the noise.

Shape letters: B batch, C classes with background, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST_KEPT, _MOST_BACKGROUND = 0.5, 0.95
"""An image keeps its labels if less than this share of its foreground would be left, and more than this share of it
would be background: values of the public code of ADELE."""


def corrected_labels(
    label_BHW: Tensor,
    *,
    taught_BHW: Tensor,
    confidence_BHW: Tensor,
    corrected_C: Tensor,
    min_confidence: float,
    ignore_index: int,
) -> Tensor:
    """y' = t where q > m and (D_y or D_t), else y: label y, teacher's label t with confidence q, corrected classes D.

    Ignored pixels stay ignored. An image whose foreground would shrink to less than half, to less than 5 % of its
    labelled pixels, keeps all its labels: a network that sees background only would otherwise teach that.

    Label i64 [B,H,W] in 0..C-1 or `ignore_index`; the teacher's i64 [B,H,W] in 0..C-1; confidence float [B,H,W]; D bool
    [C]; m `min_confidence`. Result i64 [B,H,W].

    Source: Liu et al., CVPR 2022 (ADELE), and its public code.  Differs: the code replaces a label by a corrected class
    only (D_t), here a label of a corrected class is replaced as well (D_y); it uses the classes of the image's pseudo
    label only and skips an image of which none is corrected, here t is any class that the image's labels allow; it also
    labels ignored pixels; an image is a crop of it, and shares are of its labelled pixels.
    """
    labelled_BHW = label_BHW != ignore_index
    concerned_BHW = corrected_C[label_BHW.where(labelled_BHW, 0)] | corrected_C[taught_BHW]
    changed_BHW = torch.where(labelled_BHW & concerned_BHW & (confidence_BHW > min_confidence), taught_BHW, label_BHW)
    before_B, after_B = ((labelled_BHW & (one != 0)).flatten(1).sum(1) for one in (label_BHW, changed_BHW))
    size_B = labelled_BHW.flatten(1).sum(1)
    emptied_B = (after_B < _LEAST_KEPT * before_B) & (size_B - after_B > _MOST_BACKGROUND * size_B)
    return torch.where(emptied_B[:, None, None], label_BHW, changed_BHW)
