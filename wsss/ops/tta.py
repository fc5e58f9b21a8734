"""Test-time augmentation: one network, several scales and both orientations.

Shape letters: B batch, C classes, H W pixels, h w the network's own grid, R rows of a band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.ops.multi_scale import resize_bilinear, scaled_views

Merge = Literal["mean_logits", "mean_probabilities", "max"]
_BAND_VALUES = 2**22
"""Values of one tensor of a band: 16 MiB in float32."""
_TINY = 1e-12


@torch.no_grad()
def predict_views(
    image_BCHW: Tensor,
    *,
    network: Callable[[Tensor], Tensor],
    scales: Sequence[float],
    flips: Sequence[bool],
    merge: Merge,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Views of an image, merged: with l_v a view's logits, mirrored back and resized,

        mean_logits: mean_v l_v;   mean_probabilities: mean_v softmax(l_v);   max: m / sum_c m_c, m = max_v softmax(l_v)

    Shapes: image [B,3,H,W]; `network` gives logits [B,C,h,w] at any stride; result [B,C,*size], `size` being the
    image's unless given: logits for "mean_logits", otherwise probabilities. The softmax is taken after the resize. Only
    one view is in memory at a time; no gradients.

    Raises: ValueError for another `merge`, no scale, no orientation.

    Source: Chen et al., ECCV 2018 (DeepLabv3+), section 4.1; scales (0.5, 1, 2) with mirroring and the mean of logits
    are NoPeopleAllowed's (LID 2020); "max" is ours.  Differs: bilinear throughout, where NoPeopleAllowed resizes views
    by the nearest pixel and fails on odd sizes.
    """
    _refuse_unknown(merge)
    target = size if size is not None else (image_BCHW.shape[-2], image_BCHW.shape[-1])
    total: Tensor | None = None
    for view, flipped in scaled_views(image_BCHW, scales=scales, flips=flips):
        logits = network(view)
        resized = resize_bilinear(logits.flip(-1) if flipped else logits, size=target)
        total = _joined(total, resized if merge == "mean_logits" else resized.softmax(dim=1), merge=merge)
    assert total is not None
    return _merged(total, num_views=len(scales) * len(flips), merge=merge)


@dataclass(frozen=True, kw_only=True)
class ViewLogits:
    """A network's logits for one view, on its own grid, not yet resized to the image.

    The grid is resized to `extended`, with or without aligned corners, cropped to `size` at the top left, mirrored
    back, and resized to the image.
    """

    logits: Tensor
    """f32[C,h,w]."""
    extended: tuple[int, int]
    """(H, W) of the network's input: the view with rows and columns added at the bottom and on the right."""
    size: tuple[int, int]
    """(H, W) of the view."""
    mirrored: bool
    corner_to_corner: bool = True
    """True if the grid's corners are aligned with those of `extended` (DeepLabv3+'s decoder), False if its cells tile
    it (DeepLab's earlier heads): torch's `align_corners`."""


def merged_bands(
    views: Sequence[ViewLogits], *, subsets: Sequence[Sequence[int]], merge: Merge, size: tuple[int, int]
) -> Iterator[tuple[slice, list[Tensor]]]:
    """As `predict_views`, for several subsets of the views in one pass, one band of rows at a time.

    `subsets` contain indices into `views`; an index may be repeated to give a view more weight. Yields the rows and,
    for every subset, f32[C,R,W]: logits for "mean_logits", otherwise probabilities. A view is resized to the band once,
    for any number of subsets. Values do not depend on which other subsets are computed, nor on where bands begin.
    Memory: the logits on the networks' grids and a few tensors of 16 MiB, for any image size.

    Raises: ValueError for another `merge`, or a subset without views.
    Source: ours.
    """
    _refuse_unknown(merge)
    if not all(subsets):
        raise ValueError(f"subsets is {[list(subset) for subset in subsets]}; allowed: one or more views in each")
    height, width = size
    step = max(1, _BAND_VALUES // (len(views[0].logits) * width))
    for first in range(0, height, step):
        rows = slice(first, min(first + step, height))
        totals: list[Tensor | None] = [None] * len(subsets)
        for place, view in enumerate(views):
            if not any(place in subset for subset in subsets):
                continue
            band_CRW = _band(view, rows=rows, size=size)
            term_CRW = band_CRW if merge == "mean_logits" else softmax_of_classes(band_CRW)
            for number, subset in enumerate(subsets):
                for _ in range(list(subset).count(place)):
                    totals[number] = _joined(totals[number], term_CRW, merge=merge)
        merged = zip(totals, subsets, strict=True)
        yield rows, [_merged(total, num_views=len(s), merge=merge) for total, s in merged if total is not None]


def softmax_of_classes(logits_CRW: Tensor) -> Tensor:
    """softmax over C, [C,R,W], whose last bit, unlike torch's, does not depend on a pixel's position in the tensor.

    Source: ours; torch computes the remainder after full vectors in another way, in softmax and in sums.
    """
    exponential_CRW = (logits_CRW - logits_CRW.amax(0)).exp_()
    return exponential_CRW / _sum_of_classes(exponential_CRW)


def without_classes(merged_CRW: Tensor, *, absent_C: Tensor, merge: Merge) -> Tensor:
    """Merged views of an image that is known not to show some classes.

        mean_logits: l_c = -inf for c absent;   otherwise: p_c = 0 for c absent, p / sum_c p_c

    So the softmax of the first, and the second, are the probabilities given that absent classes are not present.
    Shapes: merged [C,R,W] of `merged_bands`, absent bool [C] (not all of them True); result [C,R,W]. If every remaining
    class has probability 0, all stay 0 and argmax gives the first of them.

    Raises: ValueError for another `merge`, or if no class remains.
    Source: ours.
    """
    _refuse_unknown(merge)
    if bool(absent_C.all()):
        raise ValueError(f"all {len(absent_C)} classes are absent; the background, at least, is in every image")
    if merge == "mean_logits":
        return merged_CRW.masked_fill(absent_C[:, None, None], -torch.inf)
    left_CRW = merged_CRW.masked_fill(absent_C[:, None, None], 0.0)
    return left_CRW / _sum_of_classes(left_CRW).clamp_min(_TINY)


def with_class_weights(merged_CRW: Tensor, *, log_weights_C: Tensor, merge: Merge) -> Tensor:
    """Merged views, with the probability of each class multiplied by a weight of the image.

        mean_logits: l_c + v_c;   otherwise: p_c exp(v_c) / sum_j p_j exp(v_j)

    With p = softmax(l), the softmax of the first is the second: log q_c = log p_c + v_c, up to a constant. Shapes:
    merged [C,R,W] of `merged_bands`, log weights v float [C], finite, on the same device; result [C,R,W]. v = 0 leaves
    logits as they are.

    Raises: ValueError for another `merge`, or another number of weights.
    Source: ours; Bayes' rule with the classes' priors replaced, as in Saerens et al., Neural Computation 2002, eq. 2.4.
    Differs: the weights are a classifier's for one image; they are not divided by the classes' shares in the training
    images, and need not add up to anything.
    """
    _refuse_unknown(merge)
    if log_weights_C.shape != merged_CRW.shape[:1]:
        raise ValueError(
            f"log weights are {list(log_weights_C.shape)}, merged views {list(merged_CRW.shape)}; give one for each "
            "class"
        )
    if merge == "mean_logits":
        return merged_CRW + log_weights_C[:, None, None]
    # Relative to the largest weight, so that not all products vanish.
    weighted_CRW = merged_CRW * (log_weights_C - log_weights_C.max()).exp()[:, None, None]
    return weighted_CRW / _sum_of_classes(weighted_CRW).clamp_min(_TINY)


def _sum_of_classes(x_CHW: Tensor) -> Tensor:
    """[C,...] to [...], in pairs."""
    while len(x_CHW) > 1:
        half = len(x_CHW) // 2
        sums_CHW = x_CHW[:half] + x_CHW[half : 2 * half]
        if len(x_CHW) % 2:
            sums_CHW[0] += x_CHW[-1]
        x_CHW = sums_CHW
    return x_CHW[0]


def _refuse_unknown(merge: str) -> None:
    if merge not in get_args(Merge):
        raise ValueError(f"merge is {merge!r}; allowed: " + ", ".join(f'"{name}"' for name in get_args(Merge)))


def _joined(total: Tensor | None, term: Tensor, *, merge: Merge) -> Tensor:
    if total is None:
        return term
    return torch.maximum(total, term) if merge == "max" else total + term


def _merged(total: Tensor, *, num_views: int, merge: Merge) -> Tensor:
    if merge == "max":
        return total / _sum_of_classes(total.movedim(-3, 0)).clamp_min(_TINY).unsqueeze(-3)
    return total / num_views


def _band(view: ViewLogits, *, rows: slice, size: tuple[int, int]) -> Tensor:
    """Some rows of a view's logits at the image's size, f32[C,R,W].

    Rows are interpolated first, on the smaller grid. The weights are those of the whole image: resizing a crop would
    use others.
    """
    grid_rows, device = view.logits.shape[-2], view.logits.device
    wanted = torch.arange(rows.start, rows.stop, dtype=torch.float64, device=device)
    low, high, share = _neighbours(wanted, length=size[0], from_length=view.size[0], corners=False)
    start, stop = int(low.min()), int(high.max()) + 1
    wanted = torch.arange(start, stop, dtype=torch.float64, device=device)
    corners = view.corner_to_corner
    of_grid = _neighbours(wanted, length=view.extended[0], from_length=grid_rows, corners=corners)
    rows_CRw = _between(_between(view.logits, *of_grid), low - start, high - start, share)
    extended_CRW = _resize_columns(rows_CRw, width=view.extended[1], corners=corners)[..., : view.size[1]]
    return _resize_columns(extended_CRW.flip(-1) if view.mirrored else extended_CRW, width=size[1], corners=False)


def _neighbours(place: Tensor, *, length: int, from_length: int, corners: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Linear interpolation from `from_length` to `length`: indices of both neighbours, and the weight of the second.

    The weight is None if both lengths are the same.
    """
    if length == from_length:
        return place.long(), place.long(), None
    if corners:
        source = place * ((from_length - 1) / max(length - 1, 1))
    else:
        source = ((place + 0.5) * (from_length / length) - 0.5).clamp_min(0)
    low = source.floor().long().clamp_max(from_length - 1)
    return low, (low + 1).clamp_max(from_length - 1), (source - low).float()


def _between(x_Chw: Tensor, low: Tensor, high: Tensor, share: Tensor | None) -> Tensor:
    if share is None:
        return x_Chw[:, int(low[0]) : int(low[-1]) + 1]
    # Multiply and add in separate steps: with fused operations, the result may depend on the position.
    share_R1 = share[:, None]
    return x_Chw.index_select(1, low) * (1 - share_R1) + x_Chw.index_select(1, high) * share_R1


def _resize_columns(x_CRw: Tensor, *, width: int, corners: bool) -> Tensor:
    if x_CRw.shape[-1] == width:
        return x_CRw
    return F.interpolate(x_CRw, size=width, mode="linear", align_corners=corners)
