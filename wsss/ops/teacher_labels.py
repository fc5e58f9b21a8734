"""The labels that a network assigns to pixels, without the classes that are known to be absent from the image.

Shape letters: B batch, C classes with background, H W pixels.
"""

from __future__ import annotations

from torch import Tensor


def confident_labels(logits_BCHW: Tensor, *, absent_BC: Tensor) -> tuple[Tensor, Tensor]:
    """y = argmax_c p_c and its probability p_y, with p = softmax over the classes that are not absent.

    Equal to softmax over all classes, absent ones set to 0, and the rest divided by their sum.

    Logits float [B,C,H,W]; absent bool [B,C], true for classes that are known not to be in the image. Label i64
    [B,H,W] in 0..C-1, never an absent class; probability float [B,H,W] in [1/C, 1]. Both are constants of a loss.

    Raises: ValueError for absent of another shape, or an image with every class absent.
    Source: the pseudo label of Sohn et al., NeurIPS 2020 (FixMatch).  Differs: labels of the image remove classes.
    """
    if absent_BC.shape != logits_BCHW.shape[:2]:
        raise ValueError(f"logits are {list(logits_BCHW.shape)}, absent classes {list(absent_BC.shape)}; give [B,C]")
    if bool(absent_BC.all(1).any()):
        raise ValueError("every class of an image is absent; the background must not be")
    allowed_BCHW = logits_BCHW.detach().masked_fill(absent_BC[:, :, None, None], float("-inf"))
    found = allowed_BCHW.softmax(1).max(1)
    return found.indices, found.values
