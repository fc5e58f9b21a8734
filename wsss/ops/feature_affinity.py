"""Affinities of pixel pairs from feature maps: high for similar features (AffinityNet).

Shape letters: B batch, D channels, P pixel pairs per source (half-plane offsets), h w strided pixels, u v rows and
columns of the interior sources: u = h - (radius - 1), v = w - 2 (radius - 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wsss.ops.pixel_pairs import half_plane_offsets, in_image_window, interior_window


def interior_feature_affinity(features_BDhw: Tensor, *, radius: int) -> Tensor:
    """W_ij = exp(-mean_d |f_d(i) - f_d(j)|) of every interior pair, for training: [P, B, u, v], offsets as in
    `half_plane_offsets`.

    features [B, D, h, w] float, differentiable once. The differences are not stored for the backward pass (34 maps of
    the features' size at radius 5) but recomputed.

    Raises: ValueError if the map has no interior source.
    Source: Ahn and Kwak, CVPR 2018 (AffinityNet), eq. 2, and its public code.
    Differs: as the public code, which takes the mean over channels where the paper writes a norm.
    """
    result: Tensor = _InteriorAffinity.apply(features_BDhw, radius)
    return result


@torch.no_grad()
def feature_affinity(features_Dhw: Tensor, *, radius: int) -> Tensor:
    """The same of all pairs inside an image, for the walk: [P, h, w], at the source of each pair, 0 where the partner
    lies outside.

    Source: as `interior_feature_affinity`. Differs: the public code omits pairs of pixels near the border.
    """
    _, h, w = features_Dhw.shape
    offsets = half_plane_offsets(radius)
    out_Phw = features_Dhw.new_zeros(len(offsets), h, w)
    for out_hw, offset in zip(out_Phw, offsets, strict=True):
        window = in_image_window((h, w), offset=offset)
        if window.height > 0 and window.width > 0:
            source, partner = window.shifted((0, 0)), window.shifted(offset)
            distance = (features_Dhw[:, *source] - features_Dhw[:, *partner]).abs_().mean(0)
            out_hw[source] = distance.neg_().exp_()
    return out_Phw


class _InteriorAffinity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_BDhw: Tensor, radius: int) -> Tensor:
        batch, _, h, w = features_BDhw.shape
        window, offsets = interior_window((h, w), radius=radius), half_plane_offsets(radius)
        sources = features_BDhw[..., *window.shifted((0, 0))]
        out_PBuv = features_BDhw.new_empty(len(offsets), batch, window.height, window.width)
        for out_Buv, offset in zip(out_PBuv, offsets, strict=True):
            distance_Buv = (sources - features_BDhw[..., *window.shifted(offset)]).abs_().mean(1)
            torch.exp(distance_Buv.neg_(), out=out_Buv)
        ctx.save_for_backward(features_BDhw, out_PBuv)
        ctx.radius = radius
        return out_PBuv

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_PBuv: Tensor) -> tuple[Tensor, None]:
        features_BDhw, affinity_PBuv = ctx.saved_tensors
        window = interior_window(features_BDhw.shape[2:], radius=ctx.radius)
        source = (..., *window.shifted((0, 0)))
        slope_PBuv = grad_PBuv * affinity_PBuv / -features_BDhw.shape[1]
        grad_BDhw = torch.zeros_like(features_BDhw)
        for slope_Buv, offset in zip(slope_PBuv, half_plane_offsets(ctx.radius), strict=True):
            partner = (..., *window.shifted(offset))
            step_BDuv = (features_BDhw[source] - features_BDhw[partner]).sign_().mul_(slope_Buv.unsqueeze(1))
            grad_BDhw[source] += step_BDuv
            grad_BDhw[partner] -= step_BDuv
        return grad_BDhw, None
