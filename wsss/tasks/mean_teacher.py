"""A segmenter that learns its labels, and what a moving average of itself predicts.

Shape letters: `B` batch, `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsss.losses.consistency import consistency_sum
from wsss.losses.masked_mean import MaskedSum
from wsss.ops.teacher_labels import confident_labels
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import Batch, Task, TaskOutput
from wsss.tasks.teacher import Teacher

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

CONSISTENCY, CONFIDENT = "consistency", "confident"


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """The settings of the consistency term."""

    weight: float
    min_confidence: float


class MeanTeacherTask(Task):
    """The mean of the loss on the labels and of the teacher's labels of the same crop, seen in other colours.

        loss = (L_labels(f(weak)) + w * L_consistency(f(strong), teacher(weak))) / (1 + w)

    f is the network, which is the student. L_labels is another task's loss. For L_consistency, `consistency_sum`, the
    teacher labels each pixel of the weak view, without the classes known to be absent from the image. Where an image
    has a box in `cut`, its strong view, and the teacher's label of it, are those of the next image of the batch
    (CutMix). Both views go through the network in one pass. The term `confident`, of weight 0, is the share of the
    pixels that the teacher teaches.

    Batch: that of `labels`, with `image` f32[B, 3, H, W] as the weak view; `strong` f32[B, 3, H, W]; `inside` bool[B,
    H, W], false for padding; `cut` bool[B, H, W]; `absent` bool[B, C].

    Source: Yang et al., CVPR 2023 (UniMatch), sections 3.1 and 3.3, on FixMatch; the teacher as in UniMatch V2.
    Differs: image labels remove classes from the teacher's distribution; all images have labels and are taught, instead
    of images with masks beside others; one strong view, and no view with dropped features; the partner in CutMix is of
    the same micro-batch, on the same rank, instead of another batch, so an image alone in its micro-batch has none; the
    weight is a setting.
    """

    network: Segmenter | DeepLab

    def __init__(self, labels: SegmentationTask, *, teacher_decay: float, consistency: Consistency) -> None:
        super().__init__()
        self.network, self.synchronise_norms = labels.network, labels.synchronise_norms
        self.teacher = Teacher(self.network, decay=teacher_decay)
        self._labels = [labels]  # in a list: its network must not be registered twice
        self._consistency = consistency

    def forward(self, batch: Batch) -> TaskOutput:
        taught, confidence = confident_labels(self.teacher(batch["image"]), absent_BC=batch["absent"])
        images = torch.cat([batch["image"], _cut(batch["strong"], batch["cut"])])
        weak_BCHW, strong_BCHW = self.network(images).float().chunk(2)
        output, weight = self._labels[0].from_logits(weak_BCHW, batch), self._consistency.weight
        terms = output.terms | self._taught(strong_BCHW, taught, confidence, batch)
        weights = {name: share / (1 + weight) for name, share in output.weights.items()}
        return TaskOutput(terms=terms, weights=weights | {CONSISTENCY: weight / (1 + weight), CONFIDENT: 0.0})

    def _taught(
        self, logits_BCHW: Tensor, taught_BHW: Tensor, confidence_BHW: Tensor, batch: Batch
    ) -> dict[str, MaskedSum]:
        """The consistency of the logits of the strong view, and the share of confident pixels."""
        cut_BHW, least = batch["cut"], self._consistency.min_confidence
        label_BHW, confidence_BHW, inside_BHW = (
            _cut(one, cut_BHW) for one in (taught_BHW, confidence_BHW, batch["inside"])
        )
        term = consistency_sum(
            logits_BCHW,
            label_BHW=label_BHW,
            confidence_BHW=confidence_BHW,
            inside_BHW=inside_BHW,
            min_confidence=least,
        )
        confident = (inside_BHW & (confidence_BHW >= least)).sum()
        return {CONSISTENCY: term, CONFIDENT: MaskedSum(confident.float(), term.count)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        inside = _cut(batch["inside"], batch["cut"]).sum()
        return self._labels[0].counts(batch) | {CONSISTENCY: inside, CONFIDENT: inside}

    def end_step(self, step: int, *, tally: Tensor | None) -> None:
        self.teacher.follow(self.network, step=step)

    def new_parameters(self) -> Iterator[nn.Parameter]:
        return self._labels[0].new_parameters()


def _cut(of_images: Tensor, cut_BHW: Tensor) -> Tensor:
    """[B, ..., H, W]; inside the box of an image, those of the next image of the batch."""
    cut = cut_BHW if of_images.ndim == cut_BHW.ndim else cut_BHW[:, None]
    return torch.where(cut, of_images.roll(-1, 0), of_images)
