"""Stochastic maps by ordinary dropout of the feature map's units: the baseline for FickleNet's window-wise dropout.

With ordinary dropout a unit x_d(q) is kept or dropped for all windows, independently per channel. With
V_k,d(q) the sum of W_k,d,o over the taps o whose window reads q inside the map, the score and the map are

    S_k    = 1/hw sum_q sum_d m_d(q) x_d(q) V_k,d(q) / (1 - p)
    M_k(q) = ReLU(x(q) . dS_k/dx(q)) = ReLU(1/hw sum_d m_d(q) x_d(q) V_k,d(q) / (1 - p)).

Shape letters: S samples, K requested classes, D channels, s window, T = s*s taps, h w strided pixels, N = h*w.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wsss.ops.cam import class_rows
from wsss.ops.kept_draws import DrawKey, chunk_size, draw_kept
from wsss.ops.stochastic_cam import OnGrid, by_own_maximum, inside_taps, mean_and_peak, require_draw


@torch.no_grad()
def dropout_cam(
    features_Dhw: Tensor,
    *,
    weights_CDss: Tensor,
    classes: Sequence[int],
    num_samples: int,
    drop_rate: float,
    key: DrawKey,
    first: int = 0,
    on_grid: OnGrid | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and pixel-wise maximum over samples of the maps, each divided by its own spatial maximum.

    Shapes: features [D,h,w], weights [C,D,s,s], `classes` ids 1..C; results [K,h,w] in [0, 1], `on_grid` as
    of `stochastic_cam`. The kept units are those of `draw_kept` for `key`, samples numbered from `first`, drawn on the
    features' device; the same for all classes of a sample.

    Raises: ValueError for a drop rate outside [0, 1), for ids outside 1..C, and for fewer than one sample.
    Source: Lee et al., CVPR 2019 (FickleNet), the "general dropout" of its ablation; Srivastava et al., JMLR 2014.
    Differs: closed form for back-propagation, equal up to rounding. Independent draws per channel are our
    interpretation.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; at least 1 (the paper draws 200)")
    size_hw, kernel_size = (features_Dhw.shape[1], features_Dhw.shape[2]), weights_CDss.shape[-1]
    require_draw(size_hw, kernel_size=kernel_size, drop_rate=drop_rate)
    rows = class_rows(classes, num_rows=weights_CDss.shape[0]).to(weights_CDss.device)
    inside_TN = inside_taps(size_hw, kernel_size=kernel_size, device=features_Dhw.device).flatten(-2).to(features_Dhw)
    seen_KDN = weights_CDss.index_select(0, rows).flatten(-2).to(features_Dhw) @ inside_TN
    evidence_KDN = seen_KDN * features_Dhw.flatten(-2) / (size_hw[0] * size_hw[1] * (1 - drop_rate))

    most = chunk_size(evidence_KDN.numel(), on_cpu=1, device=evidence_KDN.device)

    def chunks() -> Iterator[Tensor]:
        for start in range(0, num_samples, most):
            kept_SU = draw_kept(
                evidence_KDN[0].numel(),
                drop_rate=drop_rate,
                key=key,
                first=first + start,
                num_samples=min(most, num_samples - start),
                device=evidence_KDN.device,
            )
            kept_S1DN = kept_SU.unflatten(1, evidence_KDN.shape[1:])[:, None].to(evidence_KDN)
            maps_SKN = (evidence_KDN * kept_S1DN).sum(2).relu_()
            yield by_own_maximum(maps_SKN).unflatten(-1, size_hw)

    return mean_and_peak(chunks(), on_grid=on_grid)
