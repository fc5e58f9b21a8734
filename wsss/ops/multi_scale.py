"""Scaled and mirrored views of an image, and the sum of maps computed on them.

Shape letters: B batch, C channels of an image, K channels of a map, H W pixels, h w strided pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor


def view_sizes(size: tuple[int, int], *, scales: Sequence[float]) -> list[tuple[int, int]]:
    """Sizes (H, W) in pixels of an image at several scales, rounded half up: floor(H * scale + 1/2), at least 1.

    Raises: ValueError for no scale at all, or one that is not positive.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales is {list(scales)}; allowed: one or more positive numbers, such as (0.5, 1.0, 2.0)")
    height, width = size
    return [(_scaled(height, scale=scale), _scaled(width, scale=scale)) for scale in scales]


def grid_size(size: tuple[int, int], *, stride: int) -> tuple[int, int]:
    """Size of the grid of that stride over an image: (ceil(H / stride), ceil(W / stride))."""
    height, width = size
    return -(-height // stride), -(-width // stride)


def resize_bilinear(x: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of [B,K,h,w] or [K,h,w] to `size` = (H, W): half-pixel centres, no antialiasing.

    The size is passed, never a factor: a factor would change the sampling grid wherever the rounded size is not
    exactly factor times the old one.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    batched = x if x.ndim == 4 else x.unsqueeze(0)
    resized = F.interpolate(batched, size=size, mode="bilinear", align_corners=False)
    return resized if x.ndim == 4 else resized.squeeze(0)


def magnify(x: Tensor, *, size: tuple[int, int], stride: int) -> Tensor:
    """Maps of the grid of that stride over an image, at its pixels: magnified `stride` times, then cropped to `size`.

    [K,h,w] or [B,K,h,w] with h = ceil(H / stride) and w = ceil(W / stride) -> [...,H,W]. Cell i of the grid covers the
    pixels stride * i to stride * (i + 1) - 1, as for a convolution of that stride; `resize_bilinear` to `size` would
    shrink the cells if H is not a multiple of the stride. Maps that have the size already are returned as they are.

    Raises: ValueError for maps of another grid.
    Source: public code of irn (step/make_sem_seg_labels.py) and psa (infer_aff.py).  Differs: as published.
    """
    found, (height, width) = (x.shape[-2], x.shape[-1]), size
    if found == (height, width):
        return x
    if found != grid_size(size, stride=stride):
        raise ValueError(
            f"maps of {found[0]} x {found[1]} for an image of {height} x {width} pixels; allowed: "
            f"{' x '.join(map(str, grid_size(size, stride=stride)))}, its grid of stride {stride}"
        )
    if x.numel() == 0:
        return x.new_zeros((*x.shape[:-2], height, width))
    return resize_bilinear(x, size=(stride * found[0], stride * found[1]))[..., :height, :width]


def scaled_views(image: Tensor, *, scales: Sequence[float], flips: Sequence[bool]) -> Iterator[tuple[Tensor, bool]]:
    """Views of [B,C,H,W] or [C,H,W], one at a time, and whether each is mirrored left to right; ordered by scale.

    `flips` says which orientations to show: (False,), or (False, True) for both.

    Raises: ValueError as `view_sizes` does, and for no orientation.

    Source: Ahn et al., CVPR 2019 (irn).  Differs: resized bilinearly on the tensor where irn uses PIL's antialiased
    bicubic on bytes, so that a view need not be copied to the CPU.
    """
    if not flips:
        raise ValueError(
            "flips is empty; allowed: (False,) for the original image, (False, True) for both orientations"
        )
    for size in view_sizes((image.shape[-2], image.shape[-1]), scales=scales):
        view = resize_bilinear(image, size=size)
        for flip in flips:
            yield (view.flip(-1) if flip else view), flip


def merge_views(outputs: Iterable[tuple[Tensor, bool]], *, size: tuple[int, int]) -> Tensor:
    """Sum over views of the map, mirrored back and resized: sum_v resize(unflip(M_v)).

    Shapes: each output is ([K,h,w] or [B,K,h,w], mirrored?) with its own h, w; result [...,K,*size]. Outputs are
    consumed one by one, so a generator keeps one view in memory. irn's `size` is `grid_size(image, stride=4)`.

    Raises: ValueError for no view.

    Source: Ahn et al., CVPR 2019, code of irn (step/make_cam).  Differs: as published.
    """
    total: Tensor | None = None
    for maps, flipped in outputs:
        resized = resize_bilinear(maps.flip(-1) if flipped else maps, size=size)
        total = resized if total is None else total + resized
    if total is None:
        raise ValueError("there is no view to merge; give at least one scale and one orientation")
    return total


def _scaled(length: int, *, scale: float) -> int:
    return max(1, math.floor(length * scale + 0.5))
