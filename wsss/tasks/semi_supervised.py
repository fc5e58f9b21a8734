"""Segmentation from masks of some images and weaker labels of the others, mixed in every batch.

Shape letters: `B` batch, `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from torch import Tensor

from shards.records import IGNORE
from wsss.losses.masked_mean import MaskedSum
from wsss.tasks.segmentation import SegmenterTask, cross_entropy_term, image_cross_entropy_term
from wsss.tasks.task import Batch, TaskOutput

FULL = "full"


def chosen(batch: Batch, which_B: Tensor) -> Batch:
    """The examples of a batch for which `which_B`, bool[B], is true; values that are not tensors are dropped."""
    return {name: value[which_B] for name, value in batch.items() if isinstance(value, Tensor)}


class SemiSupervisedTask(SegmenterTask):
    """The terms of a weak objective on the images without masks, and cross entropy on those with masks.

        loss = L_weak + full_weight * L_full

    Both parts go through the network in one batch. L_full is the mean over labelled pixels; with `per_image`, over
    those of each image, and then over the images that have any. With it, and with DSRG's objective as L_weak, this is
    the loss of semi-supervised FickleNet, L_seed + L_boundary + alpha L_full with alpha = 2: its L_full, like its
    L_seed, is defined for an image.

    Batch: `image` f32[B, 3, H, W]; `is_full` bool[B]; `mask` i64[B, H, W] of the images with masks; and the inputs
    of the weak objective for the others. Entries that do not apply to an image have arbitrary values.

    Source: Lee et al., CVPR 2019 (FickleNet), semi-supervised segmentation.  Differs: means are over the images, or
    pixels, of all ranks; an image whose crop shows no labelled pixel is left out of L_full.
    """

    def __init__(self, weak: SegmenterTask, *, full_weight: float, per_image: bool, ignore_index: int = IGNORE) -> None:
        super().__init__(weak.network, synchronise_norms=weak.synchronise_norms, ignore_index=ignore_index)
        self._weak = [weak]  # in a list: its network must not be registered twice
        self._full_weight, self._per_image = full_weight, per_image

    def from_logits(self, logits_BCHW: Tensor, batch: Batch) -> TaskOutput:
        weak, full_B = self._weak[0], batch["is_full"]
        term = image_cross_entropy_term if self._per_image else cross_entropy_term
        full = term(logits_BCHW[full_B], batch["mask"][full_B], ignore_index=self.ignore_index)
        if full_B.all():
            nothing = logits_BCHW.sum() * 0.0
            terms = {name: MaskedSum(nothing, count) for name, count in weak.counts(chosen(batch, ~full_B)).items()}
            weights = dict.fromkeys(terms, 0.0)
        else:
            output = weak.from_logits(logits_BCHW[~full_B], chosen(batch, ~full_B))
            terms, weights = dict(output.terms), dict(output.weights)
        return TaskOutput(terms={**terms, FULL: full}, weights={**weights, FULL: self._full_weight})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        full_B = batch["is_full"]
        counts = self._weak[0].counts(chosen(batch, ~full_B))
        labelled_BHW = batch["mask"][full_B] != self.ignore_index
        return {**counts, FULL: labelled_BHW.flatten(1).any(1).sum() if self._per_image else labelled_BHW.sum()}
