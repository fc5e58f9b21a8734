"""Connected components of label maps: scipy's, for maps of several values, several images, and tensors of any device.

Shape letters: B batch, H W pixels, P parts of all images together.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Connectivity = Literal[4, 8]
_DISTANCES: dict[Connectivity, int] = {4: 1, 8: 2}
"""Steps along an axis that lead to a neighbour, as scipy counts them."""


@torch.no_grad()
def connected_components(label_BHW: Tensor, *, connectivity: Connectivity) -> Tensor:
    """Number the components of every image: pixels of one value that touch, directly or through each other.

    `label_BHW` is bool or of any integer type; 0 is no component, every other value counts (255 too). Pixels touch over
    an edge (connectivity 4) or over an edge or corner (8). Returns int64 [B,H,W] on the same device: 0 where the label
    is 0, else 1..n of that image, in the order in which a scan of rows meets the components.

    Computed on the CPU, where a label map is copied to from other devices.

    Raises: ValueError for floating values, another number of dimensions or another connectivity.
    """
    if label_BHW.ndim != 3 or label_BHW.is_floating_point():
        raise ValueError(
            f"labels are {label_BHW.dtype} of shape {list(label_BHW.shape)}; give a mask or whole numbers [B,H,W], "
            "for one image label[None]"
        )
    if connectivity not in _DISTANCES:
        raise ValueError(f"connectivity = {connectivity}; allowed are 4 (edges) and 8 (edges and corners)")
    part_BHW, num_parts = _parts(label_BHW.cpu().numpy(), connectivity=connectivity)
    return _in_scan_order(part_BHW, num_parts=num_parts).to(label_BHW.device)


def _parts(label_BHW: np.ndarray, *, connectivity: Connectivity) -> tuple[Tensor, int]:
    """Components numbered from 1 through all images, value after value; and how many there are."""
    touching = np.zeros((3, 3, 3), dtype=bool)
    touching[1] = ndimage.generate_binary_structure(2, _DISTANCES[connectivity])  # nothing touches another image
    part_BHW, num_parts = np.zeros(label_BHW.shape, dtype=np.int64), 0
    for value in np.unique(label_BHW[label_BHW != 0]):
        of_value_BHW, num_found = ndimage.label(label_BHW == value, structure=touching)
        np.add(of_value_BHW, num_parts, out=part_BHW, where=of_value_BHW > 0)
        num_parts += num_found
    return torch.from_numpy(part_BHW), num_parts


def _in_scan_order(part_BHW: Tensor, *, num_parts: int) -> Tensor:
    """The same components, numbered from 1 in every image by their first pixels."""
    if num_parts == 0:
        return part_BHW
    flat = part_BHW.flatten()
    # A component's first pixel has another number before it, as few pixels have.
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (flat[1:] != flat[:-1]).nonzero().flatten() + 1])
    first_P = torch.full((num_parts + 1,), len(flat)).scatter_reduce_(0, flat[starts], starts, "amin")
    first_P[0] = -1
    number_BHW = first_P.argsort().argsort()[flat].view(part_BHW.shape)
    last_B = number_BHW.flatten(1).amax(1).cummax(0).values
    before_B = torch.cat([last_B.new_zeros(1), last_B[:-1]])
    return (number_BHW - before_B[:, None, None]).clamp_min_(0)
