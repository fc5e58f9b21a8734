"""Segmentation from seeds and image-level labels (seed, expand and constrain).

Shape letters: `B` batch, `C` classes with background, `H W` pixels, `h w` the grid of stride 8 (`dsrg_grid.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsss.losses.dsrg import boundary_sum, smoothed_softmax
from wsss.losses.sec import expand_sums, seed_sum
from wsss.tasks.dsrg import CrfInTheLoop, grid_logits
from wsss.tasks.segmentation import SegmenterTask
from wsss.tasks.task import Batch, TaskOutput

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

_TERMS = ("seed", "expand_present", "expand_absent", "expand_background", "boundary")


class SecTask(SegmenterTask):
    """Seeds, expansion by the image's labels, and the divergence between probabilities and their dense CRF refinement.

        p = smoothed softmax of the logits on the grid,  q = CRF(p)
        loss = L_seed(p, S) + L_expand(p, T, A) + L_boundary(p, q)

    q is a constant. Only seeds of classes present, and of the background, are used.

    Batch: `image` f32[B, 3, H, W]; `seeds` i64[B, h, w], ignored = none; `present` and `absent` bool[B, C], background
    first (not absent; an unknown class is neither); `pixels` u8[B, h, w, 3], the crop's colours on the grid.

    Source: Kolesnikov and Lampert, ECCV 2016 (SEC), equations 1 to 6.
    Differs: no gradient passes through the CRF, the public code uses an approximate one; seeds are one label map, so a
    pixel is a seed of one class at most; the background is not expanded in images with unknown classes.
    """

    def __init__(
        self,
        network: Segmenter | DeepLab,
        *,
        crf: CrfInTheLoop,
        foreground_decay: float,
        background_decay: float,
        synchronise_norms: bool,
    ) -> None:
        super().__init__(network, synchronise_norms=synchronise_norms)
        self._crf, self._foreground_decay, self._background_decay = crf, foreground_decay, background_decay

    def from_logits(self, logits_BCHW: Tensor, batch: Batch) -> TaskOutput:
        # Autocast would compute the CRF's messages in half precision.
        with torch.autocast(logits_BCHW.device.type, enabled=False):
            height, width = batch["seeds"].shape[-2:]
            probs_BChw = smoothed_softmax(grid_logits(logits_BCHW, size=(height, width)))
            refined_BChw = self._crf.refine(probs_BChw.detach(), pixels_Bhw3=batch["pixels"])
            class_C11 = torch.arange(probs_BChw.shape[1], device=probs_BChw.device)[:, None, None]
            seeds_BChw = (batch["seeds"][:, None] == class_C11) & batch["present"][:, :, None, None]
            expand = expand_sums(
                probs_BChw,
                present_BC=batch["present"],
                absent_BC=batch["absent"],
                foreground_decay=self._foreground_decay,
                background_decay=self._background_decay,
            )
            sums = (
                seed_sum(probs_BChw, seeds_BChw=seeds_BChw),
                *expand,
                boundary_sum(probs_BChw, refined_BChw=refined_BChw),
            )
        return TaskOutput(terms=dict(zip(_TERMS, sums, strict=True)), weights=dict.fromkeys(_TERMS, 1.0))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        seeds_Bhw = batch["seeds"]
        images = torch.tensor(len(seeds_Bhw), device=seeds_Bhw.device)
        pixels = torch.tensor(seeds_Bhw.numel(), device=seeds_Bhw.device)
        present_BF, absent_BF = batch["present"][:, 1:], batch["absent"][:, 1:]
        present, absent, known = present_BF.any(1).sum(), absent_BF.any(1).sum(), (present_BF | absent_BF).all(1).sum()
        return dict(zip(_TERMS, (images, present, absent, known, pixels), strict=True))
