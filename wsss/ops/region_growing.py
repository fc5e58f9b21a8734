"""Seeded region growing: seeds are extended to connected confident pixels of their class.

Shape letters: B batch, C classes with the background first, h w strided pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsss.ops.connected_components import connected_components

BACKGROUND = 0


@torch.no_grad()
def grow_seeds(
    seeds_BChw: Tensor,
    *,
    probs_BChw: Tensor,
    present_BC: Tensor,
    foreground_threshold: float,
    background_threshold: float,
) -> Tensor:
    """Add to the seeds of each class present the confident pixels that are 8-connected to them.

        c(u)     = argmax of p_c(u) over the classes present; u is confident if p_c(u) > foreground_threshold and,
                   if c(u) is the background, p_c(u) > background_threshold as well
        label(u) = c(u) if confident, else the last class that u is a seed of, else none
        grown    = seeds + pixels of every component of label = c, c present, that has a seed of c

    Seeds bool or 0/1 [B,C,h,w], probabilities float [B,C,h,w] (in DSRG, those that a dense CRF refined), presence bool
    or 0/1 [B,C], the background included. Returns bool [B,C,h,w].

    Consequences of the definition, and one exception:
    - Nothing is ever removed, and each call starts from the given seeds; published training passes the original
      ones at every iteration, so that wrong growth does not persist.
    - A seed that is confidently another class stays a seed, but no longer connects pixels of its own class.
    - Seeds of absent classes are kept and never grown, but they count for "the last class that u is a seed of".
    - A pixel that is a seed of exactly one class is not added to another, but does connect pixels of it. A pixel seeded
      twice is added.

    Raises: ValueError for shapes that do not fit.
    Source: Huang et al., CVPR 2018 (DSRG), deep seeded region growing, and its public code.  Differs: all
    classes and images are grown at once, with the same result; an image in which nothing is present keeps its seeds.
    """
    _require_shapes(seeds_BChw, probs_BChw=probs_BChw, present_BC=present_BC)
    seeds_BChw, present_BC = seeds_BChw > 0, present_BC > 0
    label_Bhw = _label_map(
        seeds_BChw,
        probs_BChw=probs_BChw.masked_fill(~present_BC[:, :, None, None], -torch.inf),
        foreground_threshold=foreground_threshold,
        background_threshold=background_threshold,
    )
    # Two cases need no separate mask: pixels without a label, component 0, hold no seed, so it is never reached;
    # a pixel whose label is an absent class has it from a seed of that class.
    class_B1hw = (label_Bhw - 1).clamp(min=0)[:, None]
    part_B_hw = connected_components(label_Bhw, connectivity=8).flatten(1)
    own_seed_B_hw = seeds_BChw.gather(1, class_B1hw).flatten(1)
    reached_B_parts = torch.zeros(len(part_B_hw), part_B_hw.shape[1] + 1, dtype=torch.int8, device=part_B_hw.device)
    reached_B_parts.scatter_reduce_(1, part_B_hw, own_seed_B_hw.to(torch.int8), "amax")
    reached_B1hw = reached_B_parts.gather(1, part_B_hw).view_as(class_B1hw) > 0
    seeded_once_B1hw = seeds_BChw.sum(1, keepdim=True) == 1
    return seeds_BChw | torch.zeros_like(seeds_BChw).scatter(1, class_B1hw, reached_B1hw & ~seeded_once_B1hw)


def _label_map(
    seeds_BChw: Tensor, *, probs_BChw: Tensor, foreground_threshold: float, background_threshold: float
) -> Tensor:
    """The class by which a pixel connects, counted from 1; 0 if it is neither a seed nor confident."""
    number_C11 = torch.arange(1, seeds_BChw.shape[1] + 1, device=seeds_BChw.device)[:, None, None]
    last_seed_Bhw = (seeds_BChw * number_C11).amax(1)
    peak_Bhw, class_Bhw = probs_BChw.max(1)
    confident_Bhw = peak_Bhw > foreground_threshold
    confident_Bhw &= (class_Bhw != BACKGROUND) | (peak_Bhw > background_threshold)
    return torch.where(confident_Bhw, class_Bhw + 1, last_seed_Bhw)


def _require_shapes(seeds_BChw: Tensor, *, probs_BChw: Tensor, present_BC: Tensor) -> None:
    fits = seeds_BChw.ndim == 4 and seeds_BChw.shape == probs_BChw.shape and seeds_BChw.shape[:2] == present_BC.shape
    if not fits:
        raise ValueError(
            f"seeds are {list(seeds_BChw.shape)}, probabilities {list(probs_BChw.shape)}, presence "
            f"{list(present_BC.shape)}; give [B,C,h,w] twice and [B,C], C with the background first"
        )
