"""The base class of segmenter objectives, and the simplest one: cross entropy on label maps.

Shape letters: `B` batch, `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from shards.records import IGNORE
from wsss.losses.masked_mean import MaskedSum
from wsss.tasks.task import Batch, Task, TaskOutput

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

CROSS_ENTROPY = "cross_entropy"
PixelCost = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits f32[B, C, H, W], label i64[B, H, W]) -> the cost of every pixel, f32[B, H, W], 0 where it is ignored."""


def cross_entropy_term(logits_BCHW: torch.Tensor, label_BHW: torch.Tensor, *, ignore_index: int = IGNORE) -> MaskedSum:
    """Sum of -log softmax(logits)[label] over labelled pixels, and their number."""
    total = F.cross_entropy(logits_BCHW, label_BHW, ignore_index=ignore_index, reduction="sum")
    return MaskedSum(total, (label_BHW != ignore_index).sum())


def image_cross_entropy_term(
    logits_BCHW: torch.Tensor, label_BHW: torch.Tensor, *, ignore_index: int = IGNORE
) -> MaskedSum:
    """Sum over images of the mean of -log softmax(logits)[label] over their labelled pixels, and the number of images
    with a labelled pixel."""
    cost_BHW = F.cross_entropy(logits_BCHW, label_BHW, ignore_index=ignore_index, reduction="none")
    pixels_B = (label_BHW != ignore_index).flatten(1).sum(1)
    return MaskedSum((cost_BHW.flatten(1).sum(1) / pixels_B.clamp(min=1)).sum(), (pixels_B > 0).sum())


class SegmenterTask(Task):
    """An objective on the logits of a segmenter."""

    network: Segmenter | DeepLab

    def __init__(self, network: Segmenter | DeepLab, *, synchronise_norms: bool, ignore_index: int = IGNORE) -> None:
        """`ignore_index`: the label of ignored pixels, 255 or for more than 254 classes 65,535
        (`shards.label_type`)."""
        super().__init__()
        self.network = network
        self.synchronise_norms = synchronise_norms
        self.ignore_index = ignore_index

    def forward(self, batch: Batch) -> TaskOutput:
        return self.from_logits(self.network(batch["image"]).float(), batch)

    @abstractmethod
    def from_logits(self, logits_BCHW: torch.Tensor, batch: Batch) -> TaskOutput:
        """The loss terms of logits f32[B, C, H, W] at the size of the images."""

    def new_parameters(self) -> Iterator[nn.Parameter]:
        for part in self.network.decoder_parts:
            yield from part.parameters()


class SegmentationTask(SegmenterTask):
    """Mean over labelled pixels of -log softmax(logits)[label], or of another cost; pixels with the label
    `ignore_index` do not count.

        loss = sum_u w(u) * cost(u) / sum_u w(u),  w = 1 unless the batch has weights

    With weights it is a weighted mean: it is divided by the sum of the weights of all ranks, not by the number of
    pixels. So only relative weights matter, and the gradient's scale does not depend on the average weight; otherwise
    each exponent would need a different learning rate.

    Batch: `image` f32[B, 3, H, W], `label` i64[B, H, W], `weight` f32[B, H, W] in [0, 1] or none.
    """

    def __init__(
        self,
        network: Segmenter | DeepLab,
        *,
        synchronise_norms: bool,
        ignore_index: int = IGNORE,
        cost: PixelCost | None = None,
        name: str = CROSS_ENTROPY,
    ) -> None:
        """`cost`: of a pixel, if it is not cross entropy; `name`: of the term of the loss."""
        super().__init__(network, synchronise_norms=synchronise_norms, ignore_index=ignore_index)
        self._cost, self._name = cost, name

    def from_logits(self, logits_BCHW: torch.Tensor, batch: Batch) -> TaskOutput:
        label_BHW = batch["label"]
        if "weight" in batch or self._cost is not None:
            cost_BHW = self._pixel_cost(logits_BCHW, label_BHW)
            weighted_BHW = cost_BHW * batch["weight"] if "weight" in batch else cost_BHW
            term = MaskedSum(weighted_BHW.sum(), self.counts(batch)[self._name])
        else:
            term = cross_entropy_term(logits_BCHW, label_BHW, ignore_index=self.ignore_index)
        return TaskOutput(terms={self._name: term}, weights={self._name: 1.0})

    def _pixel_cost(self, logits_BCHW: torch.Tensor, label_BHW: torch.Tensor) -> torch.Tensor:
        if self._cost is not None:
            return self._cost(logits_BCHW, label_BHW)
        return F.cross_entropy(logits_BCHW, label_BHW, ignore_index=self.ignore_index, reduction="none")

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        labelled_BHW = batch["label"] != self.ignore_index
        if "weight" in batch:
            return {self._name: batch["weight"].where(labelled_BHW, 0.0).sum()}
        return {self._name: labelled_BHW.sum()}
