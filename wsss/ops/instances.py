"""Instances from class scores: pixels whose displacements end at the same centre form a group.

Shape letters: B batch, K classes present, H W pixels, h w strided pixels, N = h*w, G groups of pixels, P pairs of a
class and a group for which a walk was computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from wsss.ops.connected_components import connected_components
from wsss.ops.multi_scale import magnify
from wsss.ops.random_walk import random_walk

_GRID_STRIDE = 4
_PLANES_AT_ONCE = 16


class GroupScores(NamedTuple):
    """Class scores of groups of pixels after the random walk."""

    scores: Tensor
    """[P, h, w] float32, divided by the maximum over all pairs and pixels."""
    classes: Tensor
    """int64 [P], ascending, position of the class among the K."""


class Instances(NamedTuple):
    """The I instances found in one image."""

    map: Tensor
    """int64 [H, W]: 0 = none, i = the i-th instance."""
    classes: Tensor
    """int64 [I], position of the class among the K."""
    scores: Tensor
    """float32 [I], in (0, 1]."""


@torch.no_grad()
def refined_centroids(displacement_B2hw: Tensor, *, num_steps: int) -> Tensor:
    """Follow the displacement field from every pixel: the pixel reached after `num_steps` steps.

    c_0(x) = x;  c_(t+1)(x) = clip(c_t(x) + D(c_t(x)));  D between pixels bilinear, clip to the grid; rounded at the end

    displacement [B, 2, h, w] float, channels (rows, columns), in grid pixels -> int64 [B, 2, h, w], same channels.
    Computed in the dtype given, at least float32. A step depends only on the position, so the
    iteration stops as soon as a step moves no pixel. With a trained field this is rare: pixels circle their centre or
    move slowly along a valley.

    Raises: ValueError for another shape or a negative number of steps.
    Source: Ahn et al., CVPR 2019 (IRNet), section 5.1 and its public code (300 steps).
    Differs: as the public code, up to rounding. Composing the field with itself n times would not give its 2^n steps:
    two bilinear steps are not one bilinear step.
    """
    if displacement_B2hw.ndim != 4 or displacement_B2hw.shape[1] != 2 or num_steps < 0:
        raise ValueError(
            f"displacement has shape {tuple(displacement_B2hw.shape)} and num_steps is {num_steps}; "
            "they must be [B, 2, h, w] and 0 or more (published: 300)"
        )
    dtype = torch.promote_types(displacement_B2hw.dtype, torch.float32)
    batch, _, h, w = displacement_B2hw.shape
    # grid_sample's units: columns before rows, -1 the first pixel, 1 the last. Widened to a power of two between them,
    # these units are exact: a pixel with zero displacement stays, however steep the field next to it.
    spans = [1 << (max(side - 1, 1) - 1).bit_length() for side in (w, h)]
    half_2 = torch.tensor(spans, dtype=dtype, device=displacement_B2hw.device) / 2
    field_B2hw = displacement_B2hw.to(dtype).flip(1) / half_2.view(2, 1, 1)
    field_B2yx = functional.pad(field_B2hw, (0, spans[0] + 1 - w, 0, spans[1] + 1 - h))
    row_h, column_w = (torch.arange(side, dtype=dtype, device=half_2.device) for side in (h, w))
    pixel_hw2 = torch.stack([column_w.expand(h, w), row_h[:, None].expand(h, w)], dim=-1) / half_2 - 1
    last_2, place_Bhw2 = pixel_hw2[-1, -1], pixel_hw2.expand(batch, -1, -1, -1)
    for _ in range(num_steps):
        step_B2hw = functional.grid_sample(field_B2yx, place_Bhw2, align_corners=True)
        next_Bhw2 = torch.minimum((place_Bhw2 + step_B2hw.permute(0, 2, 3, 1)).clamp_min(-1), last_2)
        if torch.equal(next_Bhw2, place_Bhw2):
            break
        place_Bhw2 = next_Bhw2
    return ((place_Bhw2 + 1) * half_2).round().long().flip(-1).permute(0, 3, 1, 2)


@torch.no_grad()
def displacement_groups(displacement_B2hw: Tensor, *, centroid_threshold: float, num_steps: int) -> Tensor:
    """Group pixels by the centroid in which they end.

    A centroid is a connected part of {x : |D(x)| < centroid_threshold}; a pixel's group is the part in which its
    refined displacement ends.

    displacement [B, 2, h, w] as for `refined_centroids` -> int64 [B, h, w]: 0 where it ends in no centroid, else the
    number of the part, in row-major order of the parts' first pixels; some numbers may have no pixel.

    Raises: ValueError as `refined_centroids` does, or for a threshold that is not above 0.
    Source: Ahn et al., CVPR 2019 (IRNet), section 5.1 and its public code (2.5 pixels of the stride-4 grid; pixels that
    share a side are connected).  Differs: as published.
    """
    if centroid_threshold <= 0:
        raise ValueError(f"centroid_threshold is {centroid_threshold}; it must be above 0 (published: 2.5)")
    weak_Bhw = displacement_B2hw.square().sum(1).sqrt() < centroid_threshold
    centroid_Bhw = connected_components(weak_Bhw, connectivity=4)
    row_Bhw, column_Bhw = refined_centroids(displacement_B2hw, num_steps=num_steps).unbind(1)
    place_Bhw = row_Bhw * displacement_B2hw.shape[-1] + column_Bhw
    return centroid_Bhw.flatten(1).gather(1, place_Bhw.flatten(1)).view(place_Bhw.shape)


@torch.no_grad()
def group_walk(
    scores_Khw: Tensor,
    *,
    groups_hw: Tensor,
    edge_hw: Tensor,
    radius: int,
    beta: float,
    num_steps_log2: int,
    size: tuple[int, int],
    background_threshold: float,
) -> GroupScores:
    """Random walk of the scores of each class within each group separately.

    s_kg = walk(scores_k * [groups = g]) / max over k, g and the pixels of the image

    scores [K, h, w] float, K >= 0, groups [h, w] integer, edge [h, w] float in [0, 1], all on the stride-4 grid of an
    image of `size` = (H, W) (see `magnify`) -> the pairs (k, g) whose walked scores exceed `background_threshold`
    somewhere, ordered by class and group: only these can become instances. A walk averages, so pairs that start at or
    below that fraction of a maximum already reached are skipped.

    Raises: ValueError as `random_walk` does, or if the groups have another size.
    Source: Ahn et al., CVPR 2019 (IRNet), section 5.2 and its public code.
    Differs: the code walks all pairs. Pixels that end in no centroid form one more group, as in the code.
    """
    if groups_hw.shape != edge_hw.shape:
        raise ValueError(
            f"groups are {tuple(groups_hw.shape)} and the edge {tuple(edge_hw.shape)}; both must have the same size"
        )
    numbers_G, index_hw = groups_hw.unique(return_inverse=True)
    num_groups, best = len(numbers_G), 0.0
    waiting, bound_J = _by_mass(scores_Khw.double() * (1 - edge_hw.double()), index_hw=index_hw, num_groups=num_groups)
    walked, made = [scores_Khw.new_zeros(0, *edge_hw.shape).float()], [waiting[:0]]
    while len(waiting := waiting[bound_J[waiting] > background_threshold * best]):
        chosen, waiting = waiting[:_PLANES_AT_ONCE], waiting[_PLANES_AT_ONCE:]
        own_Phw = index_hw == (chosen % num_groups).view(-1, 1, 1)
        planes_Phw = random_walk(
            scores_Khw[chosen // num_groups] * own_Phw,
            edge_hw=edge_hw,
            radius=radius,
            beta=beta,
            num_steps_log2=num_steps_log2,
        )
        best = max(best, float(magnify(planes_Phw, size=size, stride=_GRID_STRIDE).max()))
        walked.append(planes_Phw)
        made.append(chosen)
    scores_Phw, pair_P = torch.cat(walked) / max(best, 1e-12), torch.cat(made)
    high_P = scores_Phw.flatten(1).amax(1) > background_threshold
    order_P = pair_P[high_P].argsort()
    return GroupScores(scores_Phw[high_P][order_P], pair_P[high_P][order_P] // num_groups)


def _by_mass(seeds_Khw: Tensor, *, index_hw: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Pairs J = K G (k G + g) by their sum, and the maximum of each, which a walk cannot exceed.

    The largest come first: they are likely to contain the maximum, so that other walks can be skipped.
    """
    seeds_KN = seeds_Khw.flatten(1)
    index_KN = index_hw.flatten().expand(len(seeds_KN), -1)
    empty_KG = seeds_KN.new_zeros(len(seeds_KN), num_groups)
    mass_J = empty_KG.scatter_add(1, index_KN, seeds_KN).flatten()
    bound_J = empty_KG.scatter_reduce(1, index_KN, seeds_KN, "amax").flatten()
    return mass_J.argsort(descending=True, stable=True), bound_J


@torch.no_grad()
def cut_instances(
    scores_Phw: Tensor, *, classes_P: Tensor, size: tuple[int, int], background_threshold: float, min_area: float
) -> Instances:
    """Instances of an image: connected pixels for which the same pair of a class and a group has the highest score.

    winner(x) = argmax over p of s_p(x) where that exceeds the threshold, else none; an instance is a connected part of
    {x : winner(x) = p}, its score the maximum of s_p in it.

    scores [P, h, w] float of the stride-4 grid, magnified to `size` = (H, W); classes int64 [P]; `min_area` in pixels:
    smaller parts are dropped. Instances are numbered by pair, then in row-major order of their first pixels. Equal
    scores: the pair listed first.

    Source: public code of Ahn et al., CVPR 2019 (IRNet): parts are 4-connected, with at least 1 % of the image.
    Differs: the code keeps smaller parts as detections of score 0; a label map does not need them.
    """
    best_HW = scores_Phw.new_full(size, background_threshold)
    winner_HW = torch.full(size, -1, dtype=torch.int64, device=best_HW.device)
    for plane, scores_hw in enumerate(scores_Phw):  # one at a time: all of them would take P H W numbers
        scores_HW = magnify(scores_hw[None], size=size, stride=_GRID_STRIDE)[0]
        wins_HW = scores_HW > best_HW
        best_HW = torch.where(wins_HW, scores_HW, best_HW)
        winner_HW[wins_HW] = plane
    map_HW = torch.zeros_like(winner_HW)
    classes, scores, found = [classes_P[:0]], [best_HW.new_zeros(0)], 0
    for plane in range(len(scores_Phw)):
        part_HW = connected_components((winner_HW == plane)[None], connectivity=4)[0]
        area_S = part_HW.flatten().bincount()  # S parts, the first is the rest of the image
        peak_S = best_HW.new_zeros(len(area_S)).scatter_reduce(0, part_HW.flatten(), best_HW.flatten(), "amax")
        large_S = area_S >= min_area
        large_S[0] = False
        number_S = (large_S.cumsum(0) + found) * large_S
        map_HW += number_S[part_HW]
        scores.append(peak_S[large_S])
        classes.append(classes_P[plane].expand(len(scores[-1])))
        found += len(scores[-1])
    return Instances(map_HW, torch.cat(classes), torch.cat(scores))
