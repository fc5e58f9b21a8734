"""Segmentation from seeds that are grown during training (deep seeded region growing).

Shape letters: `B` batch, `C` classes with background, `H W` pixels, `h w` the grid of stride 8 (`dsrg_grid.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsss.losses.dsrg import balanced_seed_sums, boundary_sum, floored_probabilities, smoothed_softmax
from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf
from wsss.ops.region_growing import grow_seeds
from wsss.tasks.dsrg_grid import GRID, is_corner_to_corner
from wsss.tasks.segmentation import SegmenterTask
from wsss.tasks.task import Batch, TaskOutput

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

_WEIGHTS = {"seed_background": 1.0, "seed_foreground": 1.0, "boundary": 1.0}


@dataclass(frozen=True, kw_only=True)
class CrfInTheLoop:
    """The dense CRF that refines the probabilities in every step; standard deviations in grid pixels."""

    num_iterations: int
    gaussian: GaussianKernel
    bilateral: BilateralKernel

    @torch.no_grad()
    def refine(self, probs_BChw: Tensor, *, pixels_Bhw3: Tensor) -> Tensor:
        """Probabilities f32[B, C, h, w] above 0 and colours u8[B, h, w, 3] to floored probabilities, no gradient."""
        refined = [
            dense_crf(
                -probs_Chw.log(),
                image_HW3=pixels_hw3,
                num_iterations=self.num_iterations,
                gaussian=self.gaussian,
                bilateral=self.bilateral,
                in_torch=True,  # a training on a CPU computes what one on a GPU does
            )
            for probs_Chw, pixels_hw3 in zip(probs_BChw, pixels_Bhw3, strict=True)
        ]
        return floored_probabilities(torch.stack(refined))


def grid_labels(label_HW: np.ndarray) -> Tensor:
    """i64[h, w]: the label at the centre of every grid cell, or at every grid point."""
    first = 0 if is_corner_to_corner(label_HW.shape[0]) else GRID // 2
    return torch.from_numpy(label_HW[first::GRID, first::GRID].astype(np.int64))


def grid_colours(image_HW3: np.ndarray) -> Tensor:
    """u8[h, w, 3]: the mean colour of every cell of the grid, or the colour at every grid point.

    The public code resizes the crop of 321 to 41 linearly, corner to corner, which takes the pixels at the grid points.
    """
    height, width, _ = image_HW3.shape
    if is_corner_to_corner(height):
        return torch.from_numpy(image_HW3[::GRID, ::GRID].copy())
    cells = image_HW3.reshape(height // GRID, GRID, width // GRID, GRID, 3).mean((1, 3))
    return torch.from_numpy(cells.round().astype(np.uint8))


def grid_logits(logits_BCHW: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Logits at the size of the crops to those on the grid, [B, C, h, w]: at the grid points, or resized bilinearly."""
    if logits_BCHW.shape[-2] != size[0] and is_corner_to_corner(logits_BCHW.shape[-2]):
        return logits_BCHW[..., ::GRID, ::GRID]
    return F.interpolate(logits_BCHW, size=size, mode="bilinear", align_corners=False)


class DsrgTask(SegmenterTask):
    """Balanced seed loss on the grown seeds, plus the divergence between probabilities and their dense CRF refinement.

        p = smoothed softmax of the logits on the grid,  q = CRF(p),  S = growth of the given seeds by q
        loss = L_seed(p, S) + L_boundary(p, q)

    S is grown from the given seeds in every step, so that wrong growth does not persist. S and q are constants. Only
    seeds of classes present, and of the background, grow. Background cues come from the given seeds; with
    `make_seeds.background = "saliency"` they are from saliency maps, as in the paper.

    Batch: `image` f32[B, 3, H, W]; `seeds` i64[B, h, w], ignored = none; `present` bool[B, C], background first;
    `pixels` u8[B, h, w, 3], the crop's colours on the grid, not normalised.

    Source: Huang et al., CVPR 2018 (DSRG), equations 1 to 5; Kolesnikov and Lampert, ECCV 2016 (SEC), the second term.
    Differs: no gradient passes through the CRF, the public code uses an approximate one. With crops of 8 n + 1 pixels
    the grid is as published. With crops of 8 n pixels, logits are resized bilinearly to it and colours are cell means;
    theirs are computed on the grid, and samples.
    """

    def __init__(
        self,
        network: Segmenter | DeepLab,
        *,
        crf: CrfInTheLoop,
        foreground_threshold: float,
        background_threshold: float,
        synchronise_norms: bool,
    ) -> None:
        super().__init__(network, synchronise_norms=synchronise_norms)
        self._crf = crf
        self._foreground_threshold, self._background_threshold = foreground_threshold, background_threshold

    def from_logits(self, logits_BCHW: Tensor, batch: Batch) -> TaskOutput:
        # Autocast would compute the CRF's messages in half precision.
        with torch.autocast(logits_BCHW.device.type, enabled=False):
            height, width = batch["seeds"].shape[-2:]
            probs_BChw = smoothed_softmax(grid_logits(logits_BCHW, size=(height, width)))
            refined_BChw = self._crf.refine(probs_BChw.detach(), pixels_Bhw3=batch["pixels"])
            seeds_BChw = self._grown(batch, refined_BChw)
            seed_sums = balanced_seed_sums(probs_BChw, seeds_BChw=seeds_BChw)
            terms = {
                "seed_background": seed_sums.background,
                "seed_foreground": seed_sums.foreground,
                "boundary": boundary_sum(probs_BChw, refined_BChw=refined_BChw),
            }
        return TaskOutput(terms=terms, weights=_WEIGHTS)

    def _grown(self, batch: Batch, refined_BChw: Tensor) -> Tensor:
        """bool[B, C, h, w]: the given seeds of classes present, after region growing."""
        class_C11 = torch.arange(refined_BChw.shape[1], device=refined_BChw.device)[:, None, None]
        seeds_BChw = (batch["seeds"][:, None] == class_C11) & batch["present"][:, :, None, None]
        return grow_seeds(
            seeds_BChw,
            probs_BChw=refined_BChw,
            present_BC=batch["present"],
            foreground_threshold=self._foreground_threshold,
            background_threshold=self._background_threshold,
        )

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        seeds_Bhw = batch["seeds"]
        images = torch.tensor(len(seeds_Bhw), device=seeds_Bhw.device)
        pixels = torch.tensor(seeds_Bhw.numel(), device=seeds_Bhw.device)
        return {"seed_background": images, "seed_foreground": images, "boundary": pixels}
