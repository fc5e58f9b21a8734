"""Self-correcting networks: soft labels for the images without masks, recomputed at every step.

Shape letters: `B` batch, `C` classes with background, `H W` pixels, `h w` the boxes' grid of stride 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shards.records import IGNORE
from wsss.losses.masked_mean import MaskedSum
from wsss.losses.soft_cross_entropy import soft_cross_entropy_sum
from wsss.ops.expectation import em_fixed_label
from wsss.ops.self_correction import annealed_alpha, linear_self_correction
from wsss.tasks.segmentation import SegmenterTask, cross_entropy_term
from wsss.tasks.semi_supervised import FULL
from wsss.tasks.task import Batch, Task, TaskOutput

if TYPE_CHECKING:
    from wsss.models.ancillary import AncillarySegmenter
    from wsss.models.correction import ConvSelfCorrection, CorrectedSegmenter
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

WEAK, CORRECTION = "weak", "correction"


class Targets(nn.Module, ABC):
    """The target probabilities for images without masks."""

    def begin_step(self, step: int, *, num_steps: int) -> None:
        """Called before every step."""

    @abstractmethod
    def forward(self, logits_BCHW: Tensor, batch: Batch) -> Tensor:
        """Probabilities f32[B, C, H, W] from the network's logits and the batch; a constant of the loss."""


class FrozenAncillary(nn.Module):
    """The trained ancillary model: no gradient, and always in evaluation mode, whatever the task's mode."""

    def __init__(self, ancillary: AncillarySegmenter) -> None:
        super().__init__()
        self.model = _contiguous(ancillary).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenAncillary:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        logits_BCHW: Tensor = self.model(batch["image"], batch["boxes"]).float()
        return logits_BCHW


def _contiguous(network: nn.Module) -> nn.Module:
    """Use contiguous weights: DeepSpeed views weights as bytes, which does not work in channels-last layout."""
    return network.to(memory_format=torch.contiguous_format)


class AncillaryTargets(Targets):
    """No self-correction: softmax of the ancillary model's logits."""

    def __init__(self, ancillary: AncillarySegmenter) -> None:
        super().__init__()
        self.ancillary = FrozenAncillary(ancillary)

    def forward(self, logits_BCHW: Tensor, batch: Batch) -> Tensor:
        probs_BCHW: Tensor = self.ancillary(batch).softmax(1)
        return probs_BCHW


class LinearTargets(AncillaryTargets):
    """Linear self-correction: softmax of (l + alpha l_anc) / (1 + alpha), with alpha decreasing over the steps."""

    def __init__(self, ancillary: AncillarySegmenter, *, first_alpha: float, last_alpha: float) -> None:
        super().__init__(ancillary)
        self._first_alpha, self._last_alpha = first_alpha, last_alpha
        self.alpha = first_alpha

    def begin_step(self, step: int, *, num_steps: int) -> None:
        self.alpha = annealed_alpha(
            step, num_steps=num_steps, first_alpha=self._first_alpha, last_alpha=self._last_alpha
        )

    def forward(self, logits_BCHW: Tensor, batch: Batch) -> Tensor:
        ancillary_BCHW = self.ancillary(batch)
        return linear_self_correction(logits_BCHW, ancillary_BCHW=ancillary_BCHW, alpha=self.alpha).softmax(1)


class ConvTargets(AncillaryTargets):
    """Convolutional self-correction: softmax of a small network's output for both logits.

    That network is trained on the images with masks (`corrected`), not through its use as a target.
    """

    def __init__(self, ancillary: AncillarySegmenter, corrector: ConvSelfCorrection) -> None:
        super().__init__(ancillary)
        self.corrector = _contiguous(corrector)

    def forward(self, logits_BCHW: Tensor, batch: Batch) -> Tensor:
        return self.corrected(logits_BCHW, batch).softmax(1)

    def corrected(self, logits_BCHW: Tensor, batch: Batch) -> Tensor:
        """Corrected logits f32[B, C, H, W]; their gradient reaches only the correction, not the primary model."""
        corrected_BCHW: Tensor = self.corrector(logits_BCHW.detach(), self.ancillary(batch))
        return corrected_BCHW.float()


class EmFixedTargets(Targets):
    """EM-fixed, the baseline: the network's best class within the boxes, with fixed biases, as a hard label."""

    def __init__(self, *, foreground_bias: float, background_bias: float) -> None:
        super().__init__()
        self._foreground_bias, self._background_bias = foreground_bias, background_bias

    def forward(self, logits_BCHW: Tensor, batch: Batch) -> Tensor:
        allowed = F.interpolate(batch["boxes"].to(logits_BCHW.dtype), size=logits_BCHW.shape[-2:], mode="nearest") > 0
        label_BHW = em_fixed_label(
            logits_BCHW,
            allowed_BCHW=allowed,
            foreground_bias=self._foreground_bias,
            background_bias=self._background_bias,
        )
        return torch.zeros_like(logits_BCHW).scatter_(1, label_BHW[:, None], 1.0)


class SelfCorrectionTask(SegmenterTask):
    """Cross entropy on the masks of some images, soft cross entropy towards `targets` on the others.

        loss = L_weak + full_weight * L_full  (+ full_weight * L_correction, for the convolutional correction)

    Targets are constants (stop-gradient). A convolutional correction continues to be trained on the masks, since the
    primary model that it reads changes.

    Batch: `image` f32[B, 3, H, W]; `is_full` bool[B]; `label` i64[B, H, W]: the mask of an image that has one, else 0
    inside the image and `ignore_index` outside; `boxes` bool[B, C, h, w].

    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), section 3.  Differs: sums are means over the pixels of
    all ranks, weighted by `full_weight`.
    """

    def __init__(
        self,
        network: Segmenter | DeepLab,
        targets: Targets,
        *,
        full_weight: float,
        synchronise_norms: bool,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(network, synchronise_norms=synchronise_norms, ignore_index=ignore_index)
        self.targets = targets
        self._full_weight = full_weight

    def begin_step(self, step: int, *, num_steps: int) -> None:
        self.targets.begin_step(step, num_steps=num_steps)

    def from_logits(self, logits_BCHW: Tensor, batch: Batch) -> TaskOutput:
        full_B, label_BHW = batch["is_full"], batch["label"]
        learned: dict[str, MaskedSum] = {}
        if isinstance(self.targets, ConvTargets):
            # Before its use as a target: in older torch, autocast caches weights first cast without a gradient, and the
            # cached copies never get one (pytorch/pytorch#165068).
            learned[CORRECTION] = self._correction(self.targets, logits_BCHW, batch)
        full = cross_entropy_term(logits_BCHW[full_B], label_BHW[full_B], ignore_index=self.ignore_index)
        terms = {FULL: full, WEAK: self._weak(logits_BCHW, batch)} | learned
        weights = dict.fromkeys(terms, self._full_weight) | {WEAK: 1.0}
        return TaskOutput(terms=terms, weights=weights)

    def _correction(self, targets: ConvTargets, logits_BCHW: Tensor, batch: Batch) -> MaskedSum:
        full_B, label_BHW = batch["is_full"], batch["label"][batch["is_full"]]
        if not len(label_BHW):  # every rank must have a gradient for every parameter, even if it is 0
            nothing = sum(parameter.sum() for parameter in targets.corrector.parameters()) * 0.0
            return MaskedSum(torch.as_tensor(nothing), label_BHW.sum())
        corrected_BCHW = targets.corrected(logits_BCHW[full_B], _of(batch, full_B))
        return cross_entropy_term(corrected_BCHW, label_BHW, ignore_index=self.ignore_index)

    def _weak(self, logits_BCHW: Tensor, batch: Batch) -> MaskedSum:
        weak_B = ~batch["is_full"]
        if not weak_B.any():
            return MaskedSum(logits_BCHW.sum() * 0.0, weak_B.sum())
        logits_BCHW = logits_BCHW[weak_B]
        with torch.no_grad():
            target_BCHW = self.targets(logits_BCHW.detach(), _of(batch, weak_B))
        inside_BHW = batch["label"][weak_B] != self.ignore_index
        return soft_cross_entropy_sum(logits_BCHW, target_BCHW=target_BCHW, valid_BHW=inside_BHW)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        full_B, counted_BHW = batch["is_full"], batch["label"] != self.ignore_index
        full, weak = counted_BHW[full_B].sum(), counted_BHW[~full_B].sum()
        counts = {FULL: full, WEAK: weak}
        return counts | {CORRECTION: full} if isinstance(self.targets, ConvTargets) else counts

    def new_parameters(self) -> Iterator[nn.Parameter]:
        yield from super().new_parameters()
        if isinstance(self.targets, ConvTargets):
            yield from self.targets.corrector.parameters()


def _of(batch: Batch, which_B: Tensor) -> Batch:
    return {name: batch[name][which_B] for name in ("image", "boxes")}


class AncillaryTask(Task):
    """Cross entropy on masks of the ancillary model, which is given the boxes: stage 1 of self-correcting networks.

    Batch: `image` f32[B, 3, H, W], `boxes` bool[B, C, h, w], `label` i64[B, H, W], `ignore_index` ignored.
    """

    network: AncillarySegmenter

    def __init__(self, network: AncillarySegmenter, *, synchronise_norms: bool, ignore_index: int = IGNORE) -> None:
        super().__init__()
        self.network, self.synchronise_norms, self.ignore_index = network, synchronise_norms, ignore_index

    def forward(self, batch: Batch) -> TaskOutput:
        logits_BCHW = self.network(batch["image"], batch["boxes"]).float()
        term = cross_entropy_term(logits_BCHW, batch["label"], ignore_index=self.ignore_index)
        return TaskOutput(terms={"cross_entropy": term}, weights={"cross_entropy": 1.0})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": (batch["label"] != self.ignore_index).sum()}

    def new_parameters(self) -> Iterator[nn.Parameter]:
        for part in self.network.decoder_parts:
            yield from part.parameters()


class CorrectionTask(Task):
    """The primary model and the convolutional correction, both trained on masks: the second of three stages.

        loss = cross entropy of the primary model + cross entropy of the corrected logits

    The ancillary model is frozen, and the correction's gradient stops at the primary model's logits: both are
    trained independently in one pass. Batch: as for `AncillaryTask`.

    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), section 3.3.
    """

    network: CorrectedSegmenter

    def __init__(
        self,
        network: CorrectedSegmenter,
        ancillary: AncillarySegmenter,
        *,
        synchronise_norms: bool,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.network, self.synchronise_norms, self.ignore_index = network, synchronise_norms, ignore_index
        self.ancillary = FrozenAncillary(ancillary)

    def forward(self, batch: Batch) -> TaskOutput:
        logits_BCHW = self.network(batch["image"]).float()
        corrected_BCHW = self.network.corrector(logits_BCHW.detach(), self.ancillary(batch)).float()
        terms = {
            "cross_entropy": cross_entropy_term(logits_BCHW, batch["label"], ignore_index=self.ignore_index),
            CORRECTION: cross_entropy_term(corrected_BCHW, batch["label"], ignore_index=self.ignore_index),
        }
        return TaskOutput(terms=terms, weights=dict.fromkeys(terms, 1.0))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        count = (batch["label"] != self.ignore_index).sum()
        return {"cross_entropy": count, CORRECTION: count}

    def new_parameters(self) -> Iterator[nn.Parameter]:
        for part in self.network.decoder_parts:
            yield from part.parameters()
