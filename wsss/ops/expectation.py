"""EM-fixed: the expectation step of weakly supervised segmentation with fixed biases, with boxes.

Shape letters: B batch, C classes with the background first, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def em_fixed_label(
    logits_BCHW: Tensor, *, allowed_BCHW: Tensor, foreground_bias: float, background_bias: float
) -> Tensor:
    """The best class of every pixel among the allowed ones, with a bias for each: i64 [B,H,W].

        label(u) = argmax over c allowed at u of l_c(u) + b_c,   b_c = foreground_bias, or background_bias for c = 0

    Logits float [B,C,H,W]; allowed bool [B,C,H,W]: the classes whose boxes hold the pixel; the background is allowed
    everywhere, whatever its entries are. The maximisation step is ordinary cross entropy on the label.

    Raises: ValueError if the shapes differ, and unless foreground_bias > background_bias > 0: without the larger bias,
    objects would become background.
    Source: Papandreou et al., ICCV 2015, EM-Fixed; with boxes, as the baseline of Ibrahim et al., CVPR 2020.
    Differs: a class gets its bias inside its boxes and is excluded outside.
    """
    if logits_BCHW.shape != allowed_BCHW.shape:
        raise ValueError(
            f"logits are {list(logits_BCHW.shape)} and allowed classes {list(allowed_BCHW.shape)}; give [B,C,H,W] twice"
        )
    if not foreground_bias > background_bias > 0:
        raise ValueError(
            f"foreground_bias = {foreground_bias} and background_bias = {background_bias}; "
            "both must be above 0, and foreground_bias must be the larger one"
        )
    scores_BCHW = (logits_BCHW + foreground_bias).masked_fill(~allowed_BCHW, -torch.inf)
    scores_BCHW[:, 0] = logits_BCHW[:, 0] + background_bias
    return scores_BCHW.max(1).indices
