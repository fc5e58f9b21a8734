"""Affinities of pixel pairs from boundary maps, determined by the strongest boundary on the path.

Shape letters: B batch, P pixel pairs per source (half-plane offsets), h w strided pixels, u v rows and columns of the
interior sources: u = h - (radius - 1), v = w - 2 (radius - 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsss.ops.pixel_pairs import PathRuns, SourceWindow, half_plane_offsets, in_image_window, interior_window, path_runs


class RunMinima:
    """Minima over straight runs of a map, computed once and shared by all paths.

    Paths of different offsets consist of the same short runs, so a path costs min(|dy|, |dx|) comparisons of shifted
    views instead of one gather per path pixel, and no index tensor.
    """

    def __init__(self, values: Tensor, *, longest: int) -> None:
        self.by_dim = {dim: _run_minima(values, dim=dim, longest=longest) for dim in (-1, -2)}

    def along(self, path: PathRuns, *, window: SourceWindow, out: Tensor) -> None:
        """Write the minimum over `path` from every source of `window` into `out` [..., height, width]."""
        views = [self.by_dim[path.dim][length - 1][(..., *window.shifted((y, x)))] for y, x, length in path.runs]
        if len(views) == 1:
            out.copy_(views[0])
            return
        torch.minimum(views[0], views[1], out=out)
        for view in views[2:]:
            torch.minimum(out, view, out=out)


def _run_minima(values: Tensor, *, dim: int, longest: int) -> list[Tensor]:
    """Entry L-1: minimum over L consecutive pixels along `dim`, at the first of them; as long as they fit."""
    minima = [values]
    for length in range(2, min(longest, values.shape[dim]) + 1):
        starts = values.shape[dim] - length + 1
        minima.append(torch.minimum(minima[-1].narrow(dim, 0, starts), values.narrow(dim, length - 1, starts)))
    return minima


@torch.no_grad()
def interior_path_minimum(values_Bhw: Tensor, *, radius: int) -> Tensor:
    """Smallest value on the path of every interior pair, for training.

    out[p, b, i, j] = min over k in path(offset_p) of values[b, i + k_y, j + (radius - 1) + k_x]

    values [B, h, w], any ordered dtype -> [P, B, u, v], same dtype, offsets as in `half_plane_offsets`; no gradient.
    Raises: ValueError if the map has no interior source.
    Source: public code of Ahn et al., CVPR 2019 (IRNet).
    Differs: result as published (there as 1 - max); computed from shifted views.
    """
    _, h, w = values_Bhw.shape
    window = interior_window((h, w), radius=radius)
    offsets = half_plane_offsets(radius)
    minima = RunMinima(values_Bhw, longest=radius)
    out_PBuv = values_Bhw.new_empty(len(offsets), values_Bhw.shape[0], window.height, window.width)
    for out_Buv, offset in zip(out_PBuv, offsets, strict=True):
        minima.along(path_runs(offset), window=window, out=out_Buv)
    return out_PBuv


@torch.no_grad()
def path_minimum(values_hw: Tensor, *, radius: int) -> Tensor:
    """Smallest value on the path of every pair inside the image, for inference.

    out[p, i, j] = min over k in path(offset_p) of values[i + k_y, j + k_x], 0 if the partner is outside.

    values [h, w] -> [P, h, w], same dtype; any size from one pixel; no gradient.
    Source: public code of Ahn et al., CVPR 2019 (IRNet).
    Differs: the code pads with boundary probability 1 and crops; the result is the same.
    """
    h, w = values_hw.shape
    offsets = half_plane_offsets(radius)
    minima = RunMinima(values_hw, longest=radius)
    out_Phw = values_hw.new_zeros(len(offsets), h, w)
    for out_hw, offset in zip(out_Phw, offsets, strict=True):
        window = in_image_window((h, w), offset=offset)
        if window.height and window.width:
            minima.along(path_runs(offset), window=window, out=out_hw[window.shifted((0, 0))])
    return out_Phw


def rank_pixels(values_Bhw: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of every pixel within its image, and the pixel that holds each rank.

    values [B, h, w] -> rank [B, h, w] int32 in 0..h*w-1, ascending, ties by position; order [B, h*w] int64.
    Comparing ranks instead of values gives the position of the smallest pixel of a path at no extra cost.
    """
    order_BN = values_Bhw.detach().flatten(1).argsort(dim=1, stable=True)
    places_BN = torch.arange(order_BN.shape[1], dtype=torch.int32, device=order_BN.device).expand_as(order_BN)
    rank_BN = torch.empty_like(order_BN, dtype=torch.int32).scatter_(1, order_BN, places_BN)
    return rank_BN.view(values_Bhw.shape), order_BN


def path_affinity(edge_Bhw: Tensor, *, radius: int) -> Tensor:
    """Affinity of every interior pair, differentiable.

    a_ij = 1 - max over k in path(i, j) of edge_k

    edge [B, h, w] float, boundary probability in [0, 1] -> [P, B, u, v], same dtype. The gradient goes to one pixel of
    each path, the strongest boundary on it.
    Raises: ValueError if the map has no interior source.
    Source: Ahn et al., CVPR 2019 (IRNet), eq. 4.  Differs: as published.
    """
    permeability_BN = (1 - edge_Bhw).flatten(1)
    rank_Bhw, order_BN = rank_pixels(1 - edge_Bhw)
    weakest_PBuv = interior_path_minimum(rank_Bhw, radius=radius)
    weakest_BM = weakest_PBuv.transpose(0, 1).flatten(1).long()
    affinity_BM = permeability_BN.gather(1, order_BN).gather(1, weakest_BM)
    num_pairs, batch, u, v = weakest_PBuv.shape
    return affinity_BM.view(batch, num_pairs, u, v).transpose(0, 1)
