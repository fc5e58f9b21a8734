"""Connected components of label maps, by rounds of whole-tensor operations.

Shape letters: B batch, H W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Connectivity = Literal[4, 8]
_OFFSETS: dict[Connectivity, tuple[tuple[int, int], ...]] = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, -1), (1, 0), (1, 1))}
"""(dy, dx) to one of every two opposite neighbours."""


@torch.no_grad()
def connected_components(label_BHW: Tensor, *, connectivity: Connectivity) -> Tensor:
    """Number the components of every image: pixels of one value that touch, directly or through each other.

    `label_BHW` is bool or of any integer type; 0 is no component, every other value counts (255 too). Pixels touch over
    an edge (connectivity 4) or over an edge or corner (8). Returns int64 [B,H,W]: 0 where the label is 0, else
    1..n of that image, in the order in which a scan of rows meets the components.

    Pixels are nodes of a forest. In every round each root that has a smaller neighbouring root is hung below the
    smallest of them, then every path to a root is shortened to one step by pointer jumping. Of two consecutive
    rounds, n unfinished roots leave at most n/2: a root that neither moves nor is moved to is the neighbour of one that
    moves to something smaller, and moves next. So a spiral takes O(log n) rounds, of O(log n) jumps each.

    Raises: ValueError for floating values, another number of dimensions or another connectivity.
    Source: Shiloach and Vishkin, Journal of Algorithms 3 (1982), hooking and shortcutting.  Differs: roots hook to the
    smallest neighbour and paths are shortened to the end, so no separate step is needed for stagnant roots.
    """
    if label_BHW.ndim != 3 or label_BHW.is_floating_point():
        raise ValueError(
            f"labels are {label_BHW.dtype} of shape {list(label_BHW.shape)}; give a mask or whole numbers [B,H,W], "
            "for one image label[None]"
        )
    if connectivity not in _OFFSETS:
        raise ValueError(f"connectivity = {connectivity}; allowed are 4 (edges) and 8 (edges and corners)")
    root_B_HW = _roots(label_BHW, connectivity=connectivity).view(label_BHW.shape).flatten(1)
    node_B_HW = torch.arange(root_B_HW.numel(), device=label_BHW.device).view_as(root_B_HW)
    inside_B_HW = label_BHW.flatten(1) != 0
    number_B_HW = ((root_B_HW == node_B_HW) & inside_B_HW).cumsum(1)
    return torch.where(inside_B_HW, number_B_HW.flatten()[root_B_HW], 0).view(label_BHW.shape)


def _roots(label_BHW: Tensor, *, connectivity: Connectivity) -> Tensor:
    """For every pixel the smallest index of its component, int64 [B*H*W]; for pixels of 0, their own index."""
    parent = torch.arange(label_BHW.numel(), device=label_BHW.device)
    low, high = _touching(label_BHW, connectivity=connectivity)
    while len(low):
        parent.scatter_reduce_(0, high, low, "amin")
        while not torch.equal(parent, jumped := parent[parent]):
            parent = jumped
        first, second = parent[low], parent[high]
        open_pairs = first != second
        first, second = first[open_pairs], second[open_pairs]
        low, high = torch.minimum(first, second), torch.maximum(first, second)
    return parent


def _touching(label_BHW: Tensor, *, connectivity: Connectivity) -> tuple[Tensor, Tensor]:
    """Indices of neighbouring pixels of one value other than 0, the smaller and the larger of each pair."""
    height, width = label_BHW.shape[1:]
    index_BHW = torch.arange(label_BHW.numel(), device=label_BHW.device).view(label_BHW.shape)
    lows, highs = [], []
    for dy, dx in _OFFSETS[connectivity]:
        here = slice(None), slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
        there = slice(None), slice(dy, height), slice(max(0, dx), width + min(0, dx))
        alike = (label_BHW[here] == label_BHW[there]) & (label_BHW[here] != 0)
        lows.append(index_BHW[here][alike])
        highs.append(index_BHW[there][alike])
    return torch.cat(lows), torch.cat(highs)
