"""IRNet's losses: boundaries from affinities of pixel pairs, displacements from differences within pairs.

Shape letters: B batch, h w strided pixels, N = h*w, P pixel pairs per source (half-plane offsets), u v rows and columns
of the interior sources: u = h - (radius - 1), v = w - 2 (radius - 1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wsss.losses.masked_mean import MaskedSum, masked_mean
from wsss.ops.affinity import interior_path_minimum, rank_pixels
from wsss.ops.pixel_pairs import half_plane_offsets, interior_window

LOG_FLOOR = 1e-5
"""Added inside every logarithm; constant of IRNet's public code."""

INVALID, DIFFERENT, BACKGROUND, FOREGROUND = range(4)
"""Kinds of a pair: a label is missing; labels differ; both background; both the same foreground class."""


class AffinityDisplacementSums(NamedTuple):
    """The five terms of IRNet's objective. Add each over all ranks before `affinity_displacement_loss` divides."""

    bg_pos: MaskedSum
    """-log affinity over pairs of background; count in pairs."""
    fg_pos: MaskedSum
    """-log affinity over pairs of one foreground class; count in pairs."""
    neg: MaskedSum
    """-log (1 - affinity) over pairs of different labels; count in pairs."""
    dp_fg: MaskedSum
    """Error of the displacement difference over pairs of one foreground class; count in components (2 per pair)."""
    dp_bg: MaskedSum
    """Size of the displacement difference over pairs of background; count in components (2 per pair)."""


def affinity_displacement_sums(
    edge_logits_B1hw: Tensor, *, displacement_B2hw: Tensor, label_Bhw: Tensor, radius: int, num_classes: int
) -> AffinityDisplacementSums:
    """Sums and counts of IRNet's five terms over all interior pairs (i, j) closer than `radius`.

    a_ij = 1 - max over k in path(i, j) of sigmoid(edge_k), e = 1e-5
    bg_pos, fg_pos: -log(a_ij + e);  neg: -log(1 + e - a_ij)
    dp_fg: |D_i - D_j - (x_j - x_i)|_1;  dp_bg: |D_i - D_j|_1

    edge logits [B, 1, h, w] float; displacement [B, 2, h, w] float, channels (dy, dx) in strided pixels; label
    [B, h, w] integer, 0 = background, 1..num_classes foreground, anything else = ignored, in no pair.
    Numerators are scalars with a gradient, in the inputs' dtype but at least float32; counts are int64 scalars.
    The gradient of an affinity goes to one pixel of its path, the strongest boundary. First derivatives only for dp.
    Raises: ValueError if shapes disagree or the map is too small for the radius.
    Source: Ahn et al., CVPR 2019 (IRNet), eq. 5 to 8 and 11 to 12, and its public code.
    Differs: values as published; the number of classes is a parameter, not 20. An affinity depends on one pixel alone,
    so pairs are counted per strongest pixel and the logarithms taken once per pixel instead of once per pair.
    """
    _check_shapes(edge_logits_B1hw, displacement_B2hw=displacement_B2hw, label_Bhw=label_Bhw)
    edge_logits_Bhw = edge_logits_B1hw[:, 0].to(torch.promote_types(edge_logits_B1hw.dtype, torch.float32))
    displacement_B2hw = displacement_B2hw.to(torch.promote_types(displacement_B2hw.dtype, torch.float32))
    kind_PBuv = pair_kinds(label_Bhw, radius=radius, num_classes=num_classes)
    counts_Bhw4 = _count_pairs_by_strongest_pixel(edge_logits_Bhw, kind_PBuv=kind_PBuv, radius=radius)
    num_different, num_background, num_foreground = counts_Bhw4.sum((0, 1, 2))[1:].unbind()

    affinity_Bhw = 1 - edge_logits_Bhw.sigmoid()
    attract_Bhw = -torch.log(affinity_Bhw + LOG_FLOOR)
    repel_Bhw = -torch.log(1 + LOG_FLOOR - affinity_Bhw)
    weight_Bhw4 = counts_Bhw4.to(affinity_Bhw.dtype)
    dp_fg, dp_bg = _DisplacementSums.apply(displacement_B2hw, kind_PBuv, radius)
    return AffinityDisplacementSums(
        bg_pos=MaskedSum((weight_Bhw4[..., BACKGROUND] * attract_Bhw).sum(), num_background),
        fg_pos=MaskedSum((weight_Bhw4[..., FOREGROUND] * attract_Bhw).sum(), num_foreground),
        neg=MaskedSum((weight_Bhw4[..., DIFFERENT] * repel_Bhw).sum(), num_different),
        dp_fg=MaskedSum(dp_fg, 2 * num_foreground),
        dp_bg=MaskedSum(dp_bg, 2 * num_background),
    )


def affinity_displacement_loss(sums: AffinityDisplacementSums) -> Tensor:
    """IRNet's objective from its five terms, a scalar.

    L = (bg_pos / 2 + fg_pos / 2 + neg) / 2 + (dp_fg + dp_bg) / 2, each term its mean, 0 where it has no pair

    Source: Ahn et al., CVPR 2019 (IRNet), eq. 13 and its public code.
    Differs: as the public code; a term without pairs keeps its weight.
    """
    bg_pos, fg_pos, neg, dp_fg, dp_bg = (masked_mean(term) for term in sums)
    return (bg_pos / 2 + fg_pos / 2 + neg) / 2 + (dp_fg + dp_bg) / 2


@torch.no_grad()
def pair_kinds(label_Bhw: Tensor, *, radius: int, num_classes: int) -> Tensor:
    """The kind of every interior pair: [P, B, u, v] int8 of INVALID, DIFFERENT, BACKGROUND, FOREGROUND."""
    _, h, w = label_Bhw.shape
    window = interior_window((h, w), radius=radius)
    offsets = half_plane_offsets(radius)
    label_Bhw = label_Bhw.to(torch.int32)
    valid_Bhw = (label_Bhw >= 0) & (label_Bhw <= num_classes)
    source = (..., *window.shifted((0, 0)))
    label_Buv, valid_Buv = label_Bhw[source], valid_Bhw[source]
    bonus_Buv = torch.where(label_Buv == 0, BACKGROUND - DIFFERENT, FOREGROUND - DIFFERENT).to(torch.int8)
    kind_PBuv = label_Bhw.new_empty(len(offsets), *label_Buv.shape, dtype=torch.int8)
    for kind_Buv, offset in zip(kind_PBuv, offsets, strict=True):
        partner = (..., *window.shifted(offset))
        same_Buv = (label_Buv == label_Bhw[partner]).to(torch.int8)
        torch.mul(same_Buv, bonus_Buv, out=kind_Buv)
        kind_Buv.add_(DIFFERENT).mul_(valid_Buv & valid_Bhw[partner])
    return kind_PBuv


def pair_counts(label_Bhw: Tensor, *, radius: int, num_classes: int) -> dict[str, Tensor]:
    """The counts of the five terms of `affinity_displacement_sums`, from the labels alone; int64 scalars."""
    kind_PBuv = pair_kinds(label_Bhw, radius=radius, num_classes=num_classes)
    different, background, foreground = ((kind_PBuv == kind).sum() for kind in (DIFFERENT, BACKGROUND, FOREGROUND))
    return {
        "bg_pos": background,
        "fg_pos": foreground,
        "neg": different,
        "dp_fg": 2 * foreground,
        "dp_bg": 2 * background,
    }


@torch.no_grad()
def _count_pairs_by_strongest_pixel(edge_logits_Bhw: Tensor, *, kind_PBuv: Tensor, radius: int) -> Tensor:
    """How many pairs of each kind have their strongest boundary at each pixel: [B, h, w, 4] int64.

    Rank, image and kind of a pair are packed into one integer, the rank deciding its order within an image; all pairs
    are then counted in one pass.
    """
    batch, h, w = edge_logits_Bhw.shape
    rank_Bhw, order_BN = rank_pixels(-edge_logits_Bhw)
    image_B11 = torch.arange(batch, dtype=torch.int32, device=rank_Bhw.device).view(batch, 1, 1)
    code_PBuv = interior_path_minimum((rank_Bhw + image_B11 * (h * w)) * 4, radius=radius)
    code_PBuv += kind_PBuv
    by_rank_BN4 = torch.bincount(code_PBuv.view(-1), minlength=batch * h * w * 4).view(batch, h * w, 4)
    by_pixel_BN4 = torch.empty_like(by_rank_BN4).scatter_(1, order_BN.unsqueeze(2).expand_as(by_rank_BN4), by_rank_BN4)
    return by_pixel_BN4.view(batch, h, w, 4)


class _DisplacementSums(torch.autograd.Function):
    """Numerators (dp_fg, dp_bg) with their gradient computed in the same pass: signs, summed over the offsets.

    Recording the operations instead would keep five maps per offset, about a thousand, for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, displacement_B2hw: Tensor, kind_PBuv: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        h, w = displacement_B2hw.shape[2:]
        window = interior_window((h, w), radius=radius)
        offsets = half_plane_offsets(radius)
        source = (..., *window.shifted((0, 0)))
        total = {kind: displacement_B2hw.new_zeros(()) for kind in (FOREGROUND, BACKGROUND)}
        slope_B2hw = {kind: torch.zeros_like(displacement_B2hw) for kind in total}
        target_P211 = displacement_B2hw.new_tensor(offsets).view(-1, 2, 1, 1)
        for kind_Buv, target_211, offset in zip(kind_PBuv, target_P211, offsets, strict=True):
            partner = (..., *window.shifted(offset))
            difference_B2uv = displacement_B2hw[source] - displacement_B2hw[partner]
            for kind in total:
                error_B2uv = difference_B2uv if kind == BACKGROUND else difference_B2uv - target_211
                error_B2uv = error_B2uv * (kind_Buv == kind).unsqueeze(1).to(error_B2uv.dtype)
                total[kind] += error_B2uv.abs().sum()
                sign_B2uv = error_B2uv.sign_()
                slope_B2hw[kind][source] += sign_B2uv
                slope_B2hw[kind][partner] -= sign_B2uv
        ctx.save_for_backward(slope_B2hw[FOREGROUND], slope_B2hw[BACKGROUND])
        return total[FOREGROUND], total[BACKGROUND]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_fg: Tensor, grad_bg: Tensor) -> tuple[Tensor, None, None]:
        slope_fg_B2hw, slope_bg_B2hw = ctx.saved_tensors
        return grad_fg * slope_fg_B2hw + grad_bg * slope_bg_B2hw, None, None


def _check_shapes(edge_logits_B1hw: Tensor, *, displacement_B2hw: Tensor, label_Bhw: Tensor) -> None:
    batch, *grid = label_Bhw.shape
    if edge_logits_B1hw.shape != (batch, 1, *grid) or displacement_B2hw.shape != (batch, 2, *grid):
        raise ValueError(
            f"edge logits have shape {tuple(edge_logits_B1hw.shape)}, displacement {tuple(displacement_B2hw.shape)} "
            f"and label {tuple(label_Bhw.shape)}; they must be [B, 1, h, w], [B, 2, h, w] and [B, h, w]: reduce the "
            "label to the grid of the network's output"
        )
