"""Maps of a vision transformer's patches, on the grid of the image and back.

Patch i covers the pixels patch * i to patch * (i + 1) - 1 of a view: the image, or its mirror image, resized and then
extended at the bottom and on the right to whole patches. So the map of patches spans more than the view.

Shape letters: `h w` patches, `g f` cells of a grid over the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def from_patches(
    maps_hw: Tensor, *, patch: int, view: tuple[int, int], size: tuple[int, int], mirrored: bool = False
) -> Tensor:
    """Maps of patches, f32[...,h,w], at the cells of a grid of `size` over the image, f32[...,g,f].

    The centre of cell i of g is at (i + 1/2) H / g pixels of a view of H pixels, in a mirrored view from its right
    edge. Bilinear between the centres of patches, constant beyond the outermost ones. Of a view of whole patches that
    is not mirrored these are the values of `resize_bilinear`.
    """
    height, width = view
    rows = _centres(size[0], maps_hw.device) * height
    columns = _centres(size[1], maps_hw.device) * width
    columns = width - columns if mirrored else columns
    h, w = maps_hw.shape[-2:]
    return _sampled(maps_hw, rows / (patch * h), columns / (patch * w))


def to_patches(maps_gf: Tensor, *, patch: int, view: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Maps of a grid over the image, f32[...,g,f], at the centres of `size` patches of a view that is not mirrored.

    Returns f32[...,h,w], and bool[h,w]: where the centre of a patch lies in the image. Elsewhere the values are those
    of the image's edge.
    """
    rows, columns = (
        (torch.arange(number, device=maps_gf.device) + 0.5) * patch / side
        for number, side in zip(size, view, strict=True)
    )
    inside = (rows <= 1)[:, None] & (columns <= 1)[None]
    return _sampled(maps_gf, rows, columns), inside


def _centres(number: int, device: torch.device) -> Tensor:
    return (torch.arange(number, device=device) + 0.5) / number


def _sampled(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear samples at relative positions, 0 to 1 from edge to edge, of [...,h,w] -> [...,rows,columns]."""
    if maps.numel() == 0:
        return maps.new_zeros((*maps.shape[:-2], len(rows), len(columns)))
    y, x = torch.meshgrid(2 * rows - 1, 2 * columns - 1, indexing="ij")
    where = torch.stack([x, y], dim=-1)[None].to(maps.dtype)
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    sampled = F.grid_sample(flat, where, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.reshape(*maps.shape[:-2], len(rows), len(columns))
