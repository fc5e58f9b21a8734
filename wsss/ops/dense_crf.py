"""Fully connected CRF by mean field: compiled loops on a CPU, torch on a GPU.

Shapes: K labels (background included), H W pixels, N = H*W, B unaries of one image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from wsss.ops.compiled_lattice import PixelLattice, pixel_lattice
from wsss.ops.compiled_mean_field import mean_field
from wsss.ops.permutohedral import Lattice, build_lattice

PROBABILITY_FLOOR = 1e-5


@dataclass(frozen=True, kw_only=True)
class GaussianKernel:
    """The smoothness kernel: `sxy` is its standard deviation in pixels, `compat` its weight."""

    sxy: float
    compat: float

    def __post_init__(self) -> None:
        _refuse_not_positive("gaussian.sxy", self.sxy)


@dataclass(frozen=True, kw_only=True)
class BilateralKernel:
    """The appearance kernel: standard deviations in pixels (`sxy`) and grey levels 0..255 (`srgb`), and its weight."""

    sxy: float
    srgb: float
    compat: float

    def __post_init__(self) -> None:
        _refuse_not_positive("bilateral.sxy", self.sxy)
        _refuse_not_positive("bilateral.srgb", self.srgb)


def dense_crf(
    unary: Tensor,
    *,
    image_HW3: Tensor,
    num_iterations: int,
    gaussian: GaussianKernel,
    bilateral: BilateralKernel,
    in_torch: bool = False,
) -> Tensor:
    """Refine label probabilities so that nearby pixels, and nearby pixels of similar colour, agree.

        Q_0 = softmax(-U);   Q_(t+1) = softmax(-U + sum_m compat_m n_m K_m n_m Q_t)

    `unary` holds energies (minus log probabilities), float [K,H,W], or [B,K,H,W] for several unaries of one image:
    they share the lattices and are filtered in one pass, so two cost little more than one. `image_HW3` is uint8 on the
    same device. Returns Q, float32, of the unary's shape; it sums to one over K (K = 1 gives ones).
    On a CPU compiled loops do this, in one thread; `in_torch` does it in torch there too, as on a GPU. Both agree to
    rounding (mean difference below 1e-7).

    Raises ValueError for shapes or a dtype other than these, or num_iterations < 0.

    Source: Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS
    2011, algorithm 1 with the Potts model and symmetrically normalised kernels, filtered on the permutohedral lattice.
    Differs: since Q sums to one, so do the K messages up to a constant, and only K - 1 of them are filtered.
    """
    crf = ImageCrf(image_HW3, num_iterations=num_iterations, gaussian=gaussian, bilateral=bilateral, in_torch=in_torch)
    return crf(unary)


class ImageCrf:
    """`dense_crf` of one image, for unaries that come one after another: its lattices are built once, at the first."""

    def __init__(
        self,
        image_HW3: Tensor,
        *,
        num_iterations: int,
        gaussian: GaussianKernel,
        bilateral: BilateralKernel,
        in_torch: bool = False,
    ) -> None:
        """Raises ValueError for an image that is not uint8, or num_iterations < 0."""
        _refuse_bad_image(image_HW3, num_iterations)
        self._image_HW3, self._num_iterations = image_HW3, num_iterations
        self._gaussian, self._bilateral, self._always_torch = gaussian, bilateral, in_torch

    def __call__(self, unary: Tensor) -> Tensor:
        """Q of energies [K,H,W] or [B,K,H,W]; K and B may differ from call to call. Raises ValueError for shapes other
        than these."""
        _refuse_bad_shapes(unary, self._image_HW3)
        num_labels, height, width = unary.shape[-3:]
        if num_labels == 1:
            return torch.ones_like(unary, dtype=torch.float32)
        energy_BKN = unary.detach().float().reshape(-1, num_labels, height * width)
        if unary.device.type == "cpu" and not self._always_torch:
            refined = mean_field(energy_BKN.numpy(), kernels=self._pixel_lattices, num_iterations=self._num_iterations)
            return torch.from_numpy(refined).reshape(unary.shape)
        refined_BKN = _mean_field(energy_BKN, kernels=self._lattices, num_iterations=self._num_iterations)
        return refined_BKN.reshape(unary.shape)

    @cached_property
    def _pixel_lattices(self) -> list[tuple[PixelLattice, float]]:
        """Those of the compiled loops, with the weights of their kernels."""
        kernels: list[tuple[PixelLattice, float]] = []
        (height, width, _), gaussian, bilateral = self._image_HW3.shape, self._gaussian, self._bilateral
        if bilateral.compat != 0:
            image = self._image_HW3.contiguous().numpy()
            kernels.append((pixel_lattice(image, sxy=bilateral.sxy, srgb=bilateral.srgb), bilateral.compat))
        if gaussian.compat != 0:
            kernels.append((_places_lattice(height, width, sxy=gaussian.sxy), gaussian.compat))
        return kernels

    @cached_property
    def _lattices(self) -> list[tuple[Lattice, float]]:
        """Those of torch, with the weights of their kernels."""
        kernels: list[tuple[Lattice, float]] = []
        (height, width, _), gaussian, bilateral = self._image_HW3.shape, self._gaussian, self._bilateral
        if gaussian.compat != 0:
            lattice = gaussian_lattice_of(height, width, sxy=gaussian.sxy, device=self._image_HW3.device)
            kernels.append((lattice, gaussian.compat))
        if bilateral.compat != 0:
            kernels.append((bilateral_lattice_of(self._image_HW3, kernel=bilateral), bilateral.compat))
        return kernels


@lru_cache(maxsize=8)
def _places_lattice(height: int, width: int, *, sxy: float) -> PixelLattice:
    """As `gaussian_lattice_of`, for the compiled loops: 32 bytes per pixel."""
    return pixel_lattice(np.empty((height, width, 0), np.uint8), sxy=sxy, srgb=1.0)


def bilateral_lattice_of(image_HW3: Tensor, *, kernel: BilateralKernel) -> Lattice:
    """Build the lattice of an image's appearance kernel over (x, y, r, g, b); the image is uint8 [H,W,3]."""
    height, width, _ = image_HW3.shape
    place_2HW = _places(height, width, sxy=kernel.sxy, device=image_HW3.device)
    colour_3HW = image_HW3.permute(2, 0, 1).float() / kernel.srgb
    return build_lattice(torch.cat([place_2HW, colour_3HW]).flatten(1))


# One size costs about 60 bytes per pixel; photographs of a data set come in a handful of sizes.
@lru_cache(maxsize=8)
def gaussian_lattice_of(height: int, width: int, *, sxy: float, device: torch.device) -> Lattice:
    """Build, or take from the last eight, the lattice of the smoothness kernel: it depends only on the size."""
    return build_lattice(_places(height, width, sxy=sxy, device=device).flatten(1))


def unary_from_labels(label_HW: Tensor, *, num_labels: int, gt_prob: float) -> Tensor:
    """Turn a label map into energies: U = -log(gt_prob) at the given label, -log((1 - gt_prob) / (K - 1)) elsewhere.

    `label_HW` holds indices 0..K-1 of any integer dtype, 0 < gt_prob < 1; returns float32 [K,H,W]. With K = 1 there is
    no other label: zero everywhere. Raises ValueError for values outside these ranges.

    Source: pydensecrf, `unary_from_labels` with zero_unsure=False, as irn uses it.
    Differs: K = 1 divides by zero there.
    """
    if num_labels < 1 or not 0 < gt_prob < 1:
        raise ValueError(f"num_labels = {num_labels}, gt_prob = {gt_prob}; give num_labels >= 1 and 0 < gt_prob < 1")
    label_HW = label_HW.long()
    if label_HW.numel() and not 0 <= int(label_HW.min()) <= int(label_HW.max()) < num_labels:
        raise ValueError(
            f"labels span {int(label_HW.min())}..{int(label_HW.max())}; "
            f"give indices 0..{num_labels - 1} (num_labels = {num_labels})"
        )
    if num_labels == 1:
        return torch.zeros(1, *label_HW.shape, device=label_HW.device)
    other = -math.log((1 - gt_prob) / (num_labels - 1))
    unary_KHW = torch.full((num_labels, *label_HW.shape), other, device=label_HW.device)
    return unary_KHW.scatter_(0, label_HW[None], -math.log(gt_prob))


def unary_from_probabilities(prob_KHW: Tensor) -> Tensor:
    """Turn probabilities into energies U = -log(max(p, 1e-5)), float32, of the same shape.

    Source: pydensecrf, `unary_from_softmax` with its default floor. Differs: as published.
    """
    return prob_KHW.float().clamp(PROBABILITY_FLOOR, 1.0).log().neg()


def _mean_field(energy_BKN: Tensor, *, kernels: list[tuple[Lattice, float]], num_iterations: int) -> Tensor:
    num_unaries, num_labels, num_points = energy_BKN.shape
    # Only logits relative to the last label matter: z_k = U_K - U_k + m_k - m_K with m_K = total - sum_k m_k.
    # They are linear in the K - 1 messages, and C = B * (K - 1) channels of all unaries are filtered together.
    relative_CN = (energy_BKN[:, -1:] - energy_BKN[:, :-1]).flatten(0, 1)
    mixing = torch.ones(num_labels - 1, num_labels - 1, device=relative_CN.device) + torch.eye(
        num_labels - 1, device=relative_CN.device
    )
    mixing_CC = torch.block_diag(*[mixing] * num_unaries)
    base_CN = relative_CN
    for lattice, compat in kernels:
        base_CN = base_CN - compat * lattice.filter(relative_CN.new_ones(num_points, 1)).T
    logits_CN = relative_CN
    for _ in range(num_iterations):
        q_BKN = _probabilities(logits_CN, num_unaries=num_unaries)
        q_NC = q_BKN[:, :-1].reshape(len(logits_CN), num_points).T.contiguous()
        logits_CN = base_CN
        for lattice, compat in kernels:
            logits_CN = torch.addmm(logits_CN, mixing_CC, lattice.filter(q_NC).T, alpha=compat)
    return _probabilities(logits_CN, num_unaries=num_unaries)


def _probabilities(logits_CN: Tensor, *, num_unaries: int) -> Tensor:
    """Softmax over K labels, [B,K,N], of which the last has the logit 0 and is not among the given C = B * (K - 1)."""
    logits_BJN = logits_CN.unflatten(0, (num_unaries, -1))
    return torch.cat([logits_BJN, torch.zeros_like(logits_BJN[:, :1])], 1).softmax(1)


def _places(height: int, width: int, *, sxy: float, device: torch.device) -> Tensor:
    x_HW = (torch.arange(width, device=device, dtype=torch.float32) / sxy).expand(height, width)
    y_HW = (torch.arange(height, device=device, dtype=torch.float32) / sxy)[:, None].expand(height, width)
    return torch.stack([x_HW, y_HW])


def _refuse_not_positive(name: str, value: float) -> None:
    if not value > 0 or not math.isfinite(value):
        raise ValueError(f"{name} = {value}; a standard deviation must be finite and above 0")


def _refuse_bad_shapes(unary: Tensor, image_HW3: Tensor) -> None:
    if unary.ndim not in (3, 4) or unary.numel() == 0 or tuple(image_HW3.shape) != (*unary.shape[-2:], 3):
        raise ValueError(
            f"unary has shape {tuple(unary.shape)} and image {tuple(image_HW3.shape)}; "
            "give energies [K,H,W] or [B,K,H,W] and an image [H,W,3] of the same H and W"
        )


def _refuse_bad_image(image_HW3: Tensor, num_iterations: int) -> None:
    if image_HW3.dtype != torch.uint8:
        raise ValueError(f"image has dtype {image_HW3.dtype}; give uint8 values 0..255, which srgb refers to")
    if num_iterations < 0:
        raise ValueError(f"num_iterations = {num_iterations}; give 0 or more")
