"""Connected components of masks, without a loop over pixels.

Shape letters: B batch, H W pixels, R runs (stretches of a row inside the mask).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


@torch.no_grad()
def connected_components(mask_BHW: Tensor, *, connectivity: Literal[4, 8]) -> Tensor:
    """Number the connected parts of every mask: 0 outside, 1, 2, ... in the row-major order of their first pixels.

    mask [B, H, W] bool -> int64 [B, H, W], same device. `connectivity`: 4 joins pixels that share a side, 8 also those
    that share a corner.

    Rows are cut into runs; runs that touch are joined to the one of the smallest number until none is left to join.
    Raises: ValueError for a mask that is not boolean [B, H, W], or another connectivity.
    Source: textbook (run-based labelling; hooking and pointer jumping of parallel union-find).
    """
    if mask_BHW.ndim != 3 or mask_BHW.dtype != torch.bool:
        raise ValueError(f"the mask is {mask_BHW.dtype} of shape {tuple(mask_BHW.shape)}; it must be bool [B, H, W]")
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is {connectivity}; allowed: 4 (shared sides), 8 (shared corners too)")
    start_BHW = mask_BHW.clone()
    start_BHW[..., 1:] &= ~mask_BHW[..., :-1]
    run_BHW = start_BHW.flatten().cumsum(0).view(mask_BHW.shape) - 1
    root_R = _join(_touching(mask_BHW, run_BHW, connectivity=connectivity), num_runs=int(start_BHW.sum()))
    is_root_R = root_R == torch.arange(len(root_R), device=root_R.device)
    # Numbers go through the batch; every image's begin after those of the images before it.
    number_R = is_root_R.cumsum(0)[root_R]
    image_R = start_BHW.nonzero()[:, 0]
    roots_B = torch.bincount(image_R[is_root_R], minlength=len(mask_BHW))
    number_R = number_R - (roots_B.cumsum(0) - roots_B)[image_R]
    labels_BHW = torch.zeros_like(run_BHW)
    labels_BHW[mask_BHW] = number_R[run_BHW[mask_BHW]]
    return labels_BHW


def _touching(mask_BHW: Tensor, run_BHW: Tensor, *, connectivity: int) -> tuple[Tensor, Tensor]:
    """Runs that touch a run of the next row, and that run, each pair at least once."""
    width = mask_BHW.shape[-1]
    above, below = [], []
    for shift in (0,) if connectivity == 4 else (-1, 0, 1):
        upper = (slice(None), slice(None, -1), slice(max(-shift, 0), width - max(shift, 0)))
        lower = (slice(None), slice(1, None), slice(max(shift, 0), width + min(shift, 0)))
        both = mask_BHW[upper] & mask_BHW[lower]
        first = both.clone()
        first[..., 1:] &= ~both[..., :-1]  # two runs overlap in one stretch: its first pixel is enough
        above.append(run_BHW[upper][first])
        below.append(run_BHW[lower][first])
    return torch.cat(above), torch.cat(below)


def _join(pairs: tuple[Tensor, Tensor], *, num_runs: int) -> Tensor:
    """int64 [R]: the smallest run that each run is connected with."""
    root_R = torch.arange(num_runs, device=pairs[0].device)
    one, other = pairs
    while len(one):
        low, high = torch.minimum(one, other), torch.maximum(one, other)
        root_R.scatter_reduce_(0, high, low, "amin")
        while not torch.equal(root_R[root_R], root_R):
            root_R = root_R[root_R]
        one, other = root_R[one], root_R[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return root_R
