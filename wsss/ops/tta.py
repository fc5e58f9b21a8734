"""Test-time augmentation: one network, several scales and both orientations.

Shape letters: B batch, C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from wsss.ops.multi_scale import merge_views, resize_bilinear, scaled_views

Merge = Literal["mean_logits", "mean_probabilities"]


@torch.no_grad()
def predict_views(
    image_BCHW: Tensor,
    *,
    network: Callable[[Tensor], Tensor],
    scales: Sequence[float],
    flips: Sequence[bool],
    merge: Merge,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Mean over views v of l_v, or of softmax(l_v), where l_v are the view's logits mirrored back and resized.

    Shapes: image [B,3,H,W]; `network` gives logits [B,C,h,w] at any stride; result [B,C,*size], `size` being the
    image's unless given: logits for "mean_logits", probabilities for "mean_probabilities". The softmax is taken after
    the resize. One view is held at a time; no gradients.

    Raises: ValueError for another `merge`, no scale, no orientation.

    Source: Chen et al., ECCV 2018 (DeepLabv3+), section 4.1; scales (0.5, 1, 2) with mirroring and the mean of logits
    are NoPeopleAllowed's (LID 2020).  Differs: bilinear throughout, where NoPeopleAllowed resizes views by the nearest
    pixel and fails on odd sizes.
    """
    if merge not in ("mean_logits", "mean_probabilities"):
        raise ValueError(f'merge is {merge!r}; allowed: "mean_logits", "mean_probabilities"')
    target = size if size is not None else (image_BCHW.shape[-2], image_BCHW.shape[-1])

    def outputs() -> Iterator[tuple[Tensor, bool]]:
        for view, flipped in scaled_views(image_BCHW, scales=scales, flips=flips):
            logits = network(view)
            resized = resize_bilinear(logits.flip(-1) if flipped else logits, size=target)
            yield (resized.softmax(dim=1) if merge == "mean_probabilities" else resized), False

    return merge_views(outputs(), size=target) / (len(scales) * len(flips))
