"""A segmenter that learns its labels, and what a moving average of itself predicts.

Shape letters: `B` batch, `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsss.losses.consistency import consistency_sum
from wsss.losses.masked_mean import MaskedSum
from wsss.ops.teacher_labels import confident_labels
from wsss.tasks.early_learning import EarlyLearning
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import Batch, Task, TaskOutput
from wsss.tasks.teacher import Teacher

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

CONSISTENCY, CONFIDENT, CORRECTED = "consistency", "confident", "corrected"


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
    pixels that the teacher teaches. Without `consistency`, the loss is L_labels.

    With `early_learning`, the labels of some classes are replaced by the teacher's, where it is confident, before
    L_labels is computed. The term `corrected`, of weight 0, is the share of labelled pixels with another label than
    before.

    Batch: that of `labels`, with `image` f32[B, 3, H, W] as the weak view; `absent` bool[B, C]; and for `consistency`
    `strong` f32[B, 3, H, W], `inside` bool[B, H, W], false for padding, and `cut` bool[B, H, W].

    Source: Yang et al., CVPR 2023 (UniMatch), sections 3.1 and 3.3, on FixMatch; the teacher as in UniMatch V2.
    Differs: image labels remove classes from the teacher's distribution; all images have labels and are taught, instead
    of images with masks beside others; one strong view, and no view with dropped features; the partner in CutMix is of
    the same micro-batch, on the same rank, instead of another batch, so an image alone in its micro-batch has none; the
    weight is a setting.
    """

    network: Segmenter | DeepLab

    def __init__(
        self,
        labels: SegmentationTask,
        *,
        teacher_decay: float,
        consistency: Consistency | None,
        early_learning: EarlyLearning | None = None,
    ) -> None:
        super().__init__()
        self.network, self.synchronise_norms = labels.network, labels.synchronise_norms
        self.teacher = Teacher(self.network, decay=teacher_decay)
        self.early_learning = early_learning
        self._labels = [labels]  # in a list: its network must not be registered twice
        self._consistency = consistency

    def forward(self, batch: Batch) -> TaskOutput:
        taught, confidence = confident_labels(self.teacher(batch["image"]), absent_BC=batch["absent"])
        if self._consistency is None:
            return self._from_labels(self.network(batch["image"]).float(), taught, confidence, batch)
        images = torch.cat([batch["image"], _cut(batch["strong"], batch["cut"])])
        weak_BCHW, strong_BCHW = self.network(images).float().chunk(2)
        output, weight = self._from_labels(weak_BCHW, taught, confidence, batch), self._consistency.weight
        found = self._taught(strong_BCHW, taught, confidence, batch, least=self._consistency.min_confidence)
        weights = {name: share / (1 + weight) for name, share in output.weights.items()}
        weights |= {CONSISTENCY: weight / (1 + weight), CONFIDENT: 0.0}
        return replace(output, terms={**output.terms, **found}, weights=weights)

    def _from_labels(self, logits_BCHW: Tensor, taught_BHW: Tensor, confidence_BHW: Tensor, batch: Batch) -> TaskOutput:
        """The loss on the labels, some of which may be corrected, from the logits of the weak view."""
        labels, early = self._labels[0], self.early_learning
        if early is None:
            return labels.from_logits(logits_BCHW, batch)
        given_BHW, ignored = batch["label"], labels.ignore_index
        learned_BHW = early.correct(
            given_BHW, taught_BHW=taught_BHW, confidence_BHW=confidence_BHW, ignore_index=ignored
        )
        output = labels.from_logits(logits_BCHW, {**batch, "label": learned_BHW})
        changed = MaskedSum((learned_BHW != given_BHW).sum().float(), (given_BHW != ignored).sum())
        return replace(
            output,
            terms={**output.terms, CORRECTED: changed},
            weights={**output.weights, CORRECTED: 0.0},
            tally=early.overlap(logits_BCHW.detach().argmax(1), label_BHW=given_BHW, ignore_index=ignored),
        )

    def _taught(
        self, logits_BCHW: Tensor, taught_BHW: Tensor, confidence_BHW: Tensor, batch: Batch, *, least: float
    ) -> dict[str, MaskedSum]:
        """The consistency of the logits of the strong view, and the share of confident pixels."""
        cut_BHW = batch["cut"]
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
        counts = self._labels[0].counts(batch)
        if self.early_learning is not None:
            counts |= {CORRECTED: (batch["label"] != self._labels[0].ignore_index).sum()}
        if self._consistency is not None:
            inside = _cut(batch["inside"], batch["cut"]).sum()
            counts |= {CONSISTENCY: inside, CONFIDENT: inside}
        return counts

    def end_step(self, step: int, *, tally: Tensor | None) -> None:
        self.teacher.follow(self.network, step=step)
        if self.early_learning is not None and tally is not None:
            self.early_learning.add(tally)

    def end_epoch(self) -> None:
        if self.early_learning is not None:
            self.early_learning.end_epoch()

    def new_parameters(self) -> Iterator[nn.Parameter]:
        return self._labels[0].new_parameters()


def _cut(of_images: Tensor, cut_BHW: Tensor) -> Tensor:
    """[B, ..., H, W]; inside the box of an image, those of the next image of the batch."""
    cut = cut_BHW if of_images.ndim == cut_BHW.ndim else cut_BHW[:, None]
    return torch.where(cut, of_images.roll(-1, 0), of_images)
