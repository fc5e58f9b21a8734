"""FickleNet's stochastic maps and scores, without its expanded feature map and without back-propagation.

FickleNet hides part of every s x s window of the feature map x, convolves with W, pools globally; a map is
ReLU(sum_d x_d dS/dx_d). Convolution and pooling are linear, so with offsets o of the window's taps from its centre,
masks m_o(p) of the window at p, and the input position q = p + o,

    S_c    = 1/hw sum_p sum_o m_o(p) W_c,o . x(p + o) = 1/hw sum_o W_c,o . sum_q m_o(q - o) x(q)
    M_c(q) = ReLU(x(q) . dS_c/dx(q))                  = ReLU(1/hw sum_o m_o(q - o) P_c,o(q)),   P_c,o(q) = W_c,o . x(q).

P is one matrix product per image, whatever the number of samples; each sample then needs only a sum of masked planes.
The sigmoid behind S changes M by a positive factor per map only, which normalisation removes.

Shape letters: S samples, B batch, C classes, K requested classes, D channels, s window, T = s*s taps (row-major),
h w strided pixels.

Source: Lee et al., CVPR 2019 (FickleNet), sections 3.1-3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from wsss.ops.cam import class_rows
from wsss.ops.kept_draws import DrawKey, chunk_size, draw_kept

_CHUNK = 8
"""Samples whose masks are in memory at the same time on a CPU: the planes fit in its cache."""
OnGrid = Callable[[Tensor], Tensor]
"""[S,K,h,w] in, [S,K,*grid] out."""
_UNDECIDED = 255


def draw_masks(
    size_hw: tuple[int, int],
    *,
    kernel_size: int,
    drop_rate: float,
    num_samples: int,
    key: DrawKey,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Keep masks m_o(p) ~ Bernoulli(1 - drop_rate), independent for every sample, tap and window; the centre is kept.

    Result: bool [S,T,h,w] on `device`, the same on all; `masks[n, dy*s+dx, i, j]` is for the window around (i, j) and
    hides the input at (i+dy-s//2, j+dx-s//2) for all channels alike. Samples are numbered from `first`: 0 to 2 and then
    3 to 6 are the same masks as 0 to 6.

    Raises: ValueError for an even or non-positive kernel, a drop rate outside [0, 1), a size without pixels.

    Source: Lee et al., CVPR 2019, section 3.1 ("center-fixed").  Differs: the drop rate is rounded to a multiple of
    1/65536 (error below 8e-6, 0.9 becomes 0.899994), which `wsss.ops.kept_draws` needs no more than 16 bits for.
    """
    aligned_STN = _draw_aligned(
        size_hw,
        kernel_size=kernel_size,
        drop_rate=drop_rate,
        num_samples=num_samples,
        key=key,
        first=first,
        device=device,
    )
    return _roll_taps(aligned_STN.unflatten(-1, size_hw), kernel_size=kernel_size, direction=-1)


@torch.no_grad()
def stochastic_maps(features_Dhw: Tensor, *, weights_CDss: Tensor, classes: Sequence[int], masks: Tensor) -> Tensor:
    """One localisation map per sample and class, M_k = ReLU(sum_d x_d dS_k/dx_d), in closed form (see above).

    Shapes: features [D,h,w], weights [C,D,s,s], `classes` ids 1..C, masks [S,T,h,w] in `draw_masks`' order, bool or
    plain multipliers; result [S,K,h,w] of the features' dtype, not normalised.

    Raises: ValueError for shapes that do not fit, and for ids outside 1..C.

    Source: Lee et al., CVPR 2019, section 3.3.  Differs: closed form for expansion and autograd; equal up to rounding.
    """
    _require_shapes(features_Dhw.shape, weights_CDss=weights_CDss, masks=masks)
    planes_KTN = _project(features_Dhw, weights_CDss=weights_CDss, classes=classes)
    size_hw = features_Dhw.shape[-2:]
    maps_SKN = features_Dhw.new_empty((masks.shape[0], planes_KTN.shape[0], planes_KTN.shape[-1]))
    for start in range(0, masks.shape[0], _CHUNK):
        rows = slice(start, start + _CHUNK)
        aligned = _roll_taps(masks[rows], kernel_size=weights_CDss.shape[-1], direction=1).flatten(-2)
        maps_SKN[rows] = _masked_sums(planes_KTN, masks_STN=aligned)
    return maps_SKN.unflatten(-1, size_hw)


@torch.no_grad()
def stochastic_cam(
    features_Dhw: Tensor,
    *,
    weights_CDss: Tensor,
    classes: Sequence[int],
    num_samples: int,
    drop_rate: float,
    key: DrawKey,
    first: int = 0,
    on_grid: OnGrid | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and pixel-wise maximum over samples of the maps, each divided by its own spatial maximum.

    Shapes: as `stochastic_maps`; results [K,h,w] in [0, 1], or of the grid to which `on_grid` resizes every normalised
    map: the maximum of interpolated maps is not the interpolated maximum. A map that is zero everywhere stays zero. The
    masks are those of `draw_masks` for `key` and `first`, drawn on the features' device. Memory does not grow with
    `num_samples`.

    Raises: ValueError as `draw_masks` and `stochastic_maps` do, and for fewer than one sample.

    Source: Lee et al., CVPR 2019, section 3.3.  Differs: the paper does not say whether a map is normalised before its
    threshold of 0.35; that number only makes sense if it is.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; at least 1 (the paper draws 200)")
    _require_shapes(features_Dhw.shape, weights_CDss=weights_CDss, masks=None)
    size_hw = (features_Dhw.shape[1], features_Dhw.shape[2])
    planes_KTN = _project(features_Dhw, weights_CDss=weights_CDss, classes=classes)

    kernel_size, device = weights_CDss.shape[-1], planes_KTN.device
    most = chunk_size(planes_KTN[0].numel(), on_cpu=_CHUNK, device=device)

    def chunks() -> Iterator[Tensor]:
        for start in range(0, num_samples, most):
            aligned_STN = _draw_aligned(
                size_hw,
                kernel_size=kernel_size,
                drop_rate=drop_rate,
                num_samples=min(most, num_samples - start),
                key=key,
                first=first + start,
                device=device,
            )
            yield by_own_maximum(_masked_sums(planes_KTN, masks_STN=aligned_STN)).unflatten(-1, size_hw)

    return mean_and_peak(chunks(), on_grid=on_grid)


def mean_and_peak(chunks_SKhw: Iterable[Tensor], *, on_grid: OnGrid | None) -> tuple[Tensor, Tensor]:
    """Mean and pixel-wise maximum over all samples, each resized to the grid first; a chunk at a time."""
    total_Khw, peak_Khw, count = torch.zeros(()), torch.zeros(()), 0
    for maps_SKhw in chunks_SKhw:
        maps_SKhw = on_grid(maps_SKhw) if on_grid else maps_SKhw
        of_chunk = maps_SKhw.amax(0)
        total_Khw = maps_SKhw.sum(0) + total_Khw.to(of_chunk)
        peak_Khw = torch.maximum(of_chunk, peak_Khw.to(of_chunk))
        count += len(maps_SKhw)
    return total_Khw / count, peak_Khw


def stochastic_scores(features_BDhw: Tensor, *, weights_CDss: Tensor, masks: Tensor, kept_scale: float = 1.0) -> Tensor:
    """Training scores before the sigmoid, S_c = 1/hw sum_o W_c,o . (x m_o^T), one mask per image.

    Shapes: features [B,D,h,w], weights [C,D,s,s], masks [B,T,h,w] as in `stochastic_maps`; result [B,C]. Differentiable
    in features and weights. `kept_scale` multiplies every tap except the centre: 1 as published; with all masks open,
    1 - drop_rate gives the mean over masks.

    Raises: ValueError for shapes that do not fit.

    Source: Lee et al., CVPR 2019, section 3.2.  Differs: no [D,sh,sw] expansion (279 MB per image at the paper's
    sizes); equal up to rounding.
    """
    _require_shapes(features_BDhw.shape, weights_CDss=weights_CDss, masks=masks)
    size_hw = (features_BDhw.shape[2], features_BDhw.shape[3])
    kernel_size = weights_CDss.shape[-1]
    aligned_BThw = _roll_taps(masks, kernel_size=kernel_size, direction=1).to(features_BDhw)
    aligned_BThw = aligned_BThw * inside_taps(size_hw, kernel_size=kernel_size, device=features_BDhw.device)
    visible_BDT = torch.bmm(features_BDhw.flatten(-2), aligned_BThw.flatten(-2).transpose(1, 2))
    scaled_CDT = _scaled_taps(weights_CDss, kept_scale=kept_scale)
    return visible_BDT.flatten(1) @ scaled_CDT.flatten(1).T / (size_hw[0] * size_hw[1])


def ficklenet_label(
    mean_Khw: Tensor, peak_Khw: Tensor, *, classes: Sequence[int], theta: float, ignore_index: int = _UNDECIDED
) -> Tensor:
    """Label of each position: among classes whose peak is above theta, the one with the highest mean; else
    `ignore_index`.

    Shapes: mean and peak [K,h,w] of `stochastic_cam`, `classes` K class ids; result int64 [h,w]. "Some sample's map is
    above theta" is "the maximum over samples is above theta" (strictly), so theta needs no new samples. Equal means:
    the class listed first.

    Raises: ValueError if the shapes or the number of classes differ, and for theta outside [0, 1].

    Source: Lee et al., CVPR 2019, section 3.3.  Differs: the mean is of normalised maps; the paper does not say.
    """
    if not 0 <= theta <= 1:
        raise ValueError(f"theta is {theta}; allowed: from 0 to 1, as the maps are (the paper uses 0.35)")
    if mean_Khw.shape != peak_Khw.shape or mean_Khw.shape[0] != len(classes):
        raise ValueError(
            f"mean is {list(mean_Khw.shape)}, peak {list(peak_Khw.shape)}, with {len(classes)} classes; "
            "allowed: both [K,h,w] with K classes"
        )
    label_hw = torch.full(mean_Khw.shape[1:], ignore_index, dtype=torch.int64, device=mean_Khw.device)
    best_hw = torch.full_like(label_hw, -torch.inf, dtype=mean_Khw.dtype)
    for class_id, mean_hw, peak_hw in zip(classes, mean_Khw, peak_Khw, strict=True):
        wins = (peak_hw > theta) & (mean_hw > best_hw)
        label_hw = torch.where(wins, int(class_id), label_hw)
        best_hw = torch.where(wins, mean_hw, best_hw)
    return label_hw


def _draw_aligned(
    size_hw: tuple[int, int],
    *,
    kernel_size: int,
    drop_rate: float,
    num_samples: int,
    key: DrawKey,
    first: int,
    device: torch.device | str,
) -> Tensor:
    """Draws indexed by the input position q that a tap reads instead of by its window p; bool [S,T,N].

    All draws are independent, so any layout is valid, and with this one the sums need no shifts. Taps that read outside
    the image wrap around to unused positions: the layout is a permutation of the windows' (`_roll_taps`).
    """
    require_draw(size_hw, kernel_size=kernel_size, drop_rate=drop_rate)
    num_taps, num_pixels = kernel_size**2, size_hw[0] * size_hw[1]
    kept = draw_kept(
        num_taps * num_pixels, drop_rate=drop_rate, key=key, first=first, num_samples=num_samples, device=device
    )
    kept_STN = kept.unflatten(1, (num_taps, num_pixels))
    kept_STN[:, num_taps // 2] = True
    return kept_STN


def _project(features_Dhw: Tensor, *, weights_CDss: Tensor, classes: Sequence[int]) -> Tensor:
    """P_k,o(q) / hw as [K,T,N], zero if no window reads q through tap o."""
    size_hw = (features_Dhw.shape[1], features_Dhw.shape[2])
    rows = class_rows(classes, num_rows=weights_CDss.shape[0]).to(weights_CDss.device)
    weights_KTD = weights_CDss.index_select(0, rows).flatten(-2).permute(0, 2, 1)
    planes_KTN = weights_KTD.to(features_Dhw.dtype) @ features_Dhw.flatten(-2) / (size_hw[0] * size_hw[1])
    inside_TN = inside_taps(size_hw, kernel_size=weights_CDss.shape[-1], device=planes_KTN.device).flatten(-2)
    return planes_KTN * inside_TN.to(planes_KTN)


def _masked_sums(planes_KTN: Tensor, *, masks_STN: Tensor) -> Tensor:
    """ReLU(sum_o m_o P_k,o) as [S,K,N]; a loop over taps, because an einsum would copy both sides first."""
    num_classes, num_taps, num_pixels = planes_KTN.shape
    multipliers = masks_STN.to(planes_KTN.dtype).unsqueeze(1)
    sums_SKN = planes_KTN.new_zeros((masks_STN.shape[0], num_classes, num_pixels))
    for tap in range(num_taps):
        sums_SKN.addcmul_(multipliers[:, :, tap], planes_KTN[:, tap])
    return sums_SKN.relu_()


def by_own_maximum(maps_SKN: Tensor) -> Tensor:
    """Divide every map [...,N] by its own maximum; a map of zeros stays zero."""
    largest = maps_SKN.amax(dim=-1, keepdim=True)
    return maps_SKN / torch.where(largest > 0, largest, torch.ones_like(largest))


def _roll_taps(masks_SThw: Tensor, *, kernel_size: int, direction: int) -> Tensor:
    """From windows to input positions, m'_o(q) = m_o(q - o) on the torus (direction 1), or back (-1)."""
    rolled = torch.empty_like(masks_SThw, memory_format=torch.contiguous_format)
    for tap, (dy, dx) in enumerate(_offsets(kernel_size)):
        rolled[:, tap] = masks_SThw[:, tap].roll((direction * dy, direction * dx), dims=(-2, -1))
    return rolled


def inside_taps(size_hw: tuple[int, int], *, kernel_size: int, device: torch.device) -> Tensor:
    """Whether the window q - o that reads q through tap o is in the image; bool [T,h,w]."""
    height, width = size_hw
    tap_T1 = torch.arange(kernel_size**2, device=device)[:, None]
    rows_Th = torch.arange(height, device=device) - (tap_T1 // kernel_size - kernel_size // 2)
    columns_Tw = torch.arange(width, device=device) - (tap_T1 % kernel_size - kernel_size // 2)
    rows_fit = (rows_Th >= 0) & (rows_Th < height)
    columns_fit = (columns_Tw >= 0) & (columns_Tw < width)
    return rows_fit[:, :, None] & columns_fit[:, None, :]


def _scaled_taps(weights_CDss: Tensor, *, kept_scale: float) -> Tensor:
    """Weights as [C,D,T], with all taps except the centre multiplied by `kept_scale`."""
    weights_CDT = weights_CDss.flatten(-2)
    scale_T = torch.full_like(weights_CDT[0, 0], kept_scale)
    scale_T[scale_T.numel() // 2] = 1.0
    return weights_CDT * scale_T


def _offsets(kernel_size: int) -> Iterator[tuple[int, int]]:
    reach = kernel_size // 2
    return ((dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1))


def require_draw(size_hw: tuple[int, int], *, kernel_size: int, drop_rate: float) -> None:
    """Raise ValueError for an even or non-positive kernel, a drop rate outside [0, 1), a size without pixels."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; allowed: odd numbers from 1, so that a window has a centre")
    if not 0 <= drop_rate < 1:
        raise ValueError(f"drop_rate is {drop_rate}; allowed: from 0 to below 1 (the paper drops 0.9)")
    if min(size_hw) < 1:
        raise ValueError(f"size_hw is {tuple(size_hw)}; allowed: at least one row and one column")


def _require_shapes(shape: Sequence[int], *, weights_CDss: Tensor, masks: Tensor | None) -> None:
    """Check the features' shape against weights and masks."""
    height, width = shape[-2:]
    _, channels, kernel_size, other = weights_CDss.shape
    if kernel_size != other or kernel_size % 2 == 0:
        raise ValueError(f"weights are {list(weights_CDss.shape)}; allowed: [C,D,s,s] with an odd s")
    if shape[-3] != channels:
        raise ValueError(f"features have {shape[-3]} channels, the weights read {channels}; give the same number")
    if masks is None:
        return
    first = shape[0] if len(shape) == 4 else masks.shape[0]
    wanted = [first, kernel_size**2, height, width]
    if list(masks.shape) != wanted:
        raise ValueError(f"masks are {list(masks.shape)}; allowed: {wanted}, one plane for each tap of a window")
