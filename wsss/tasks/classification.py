"""Multi-label classification: which classes stand in the image.

Shape letters: `B` batch, `C` foreground classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from wsss.losses.masked_mean import MaskedSum
from wsss.losses.multi_label import Loss, asymmetric_terms, bce_terms, combine_terms, focal_terms
from wsss.tasks.mixing import Mixing, mix
from wsss.tasks.task import Batch, Task, TaskOutput

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised."""

    loss: Loss = "bce"
    focal_gamma: float = 2.0
    asymmetric_gammas: tuple[float, float] = (1.0, 4.0)
    asymmetric_margin: float = 0.05
    label_smoothing: float = 0.0
    positive_weights: tuple[float, ...] | None = None
    """Weight of each class's positive term; None for 1."""
    mixing: Mixing = "none"
    mixing_alpha: float = 0.2


class ClassificationTask(Task):
    """Mean over known (image, class) pairs of a loss on the logits.

    `soft_margin` is torch's multilabel_soft_margin_loss (irn): the mean over an image's classes, then over images; it
    equals `bce` if all labels are known. Batch: `image` f32[B, 3, H, W], `target` f32[B, C] in {0, 1}, `known`
    f32[B, C] in {0, 1}. `prepare` mixes images.
    """

    network: Classifier

    def __init__(self, network: Classifier, *, objective: Objective, synchronise_norms: bool) -> None:
        super().__init__()
        self.network = network
        self.synchronise_norms = synchronise_norms
        self._objective = objective

    def prepare(self, batch: Batch) -> Batch:
        image_B3HW, target_BC, known_BC = mix(
            batch["image"],
            batch["target"],
            batch["known"],
            mixing=self._objective.mixing,
            alpha=self._objective.mixing_alpha,
            # The engine seeds it at every step, so that a resumed training draws the same values.
            generator=torch.default_generator,
        )
        return {**batch, "image": image_B3HW, "target": target_BC, "known": known_BC}

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        known_BC = batch["known"]
        counted = known_BC.sum(1) > 0 if self._objective.loss == "soft_margin" else known_BC
        return {"classification": counted.sum()}

    def forward(self, batch: Batch) -> TaskOutput:
        objective = self._objective
        target_BC, known_BC = batch["target"], batch["known"]
        logits_BC = self.network(batch["image"], generator=torch.default_generator).float()
        weights = objective.positive_weights
        loss_BC = known_BC * combine_terms(
            self._terms(logits_BC),
            target_BC=target_BC,
            smoothing=objective.label_smoothing,
            positive_weight_C=None if weights is None else torch.tensor(weights).to(logits_BC),
        )
        if objective.loss == "soft_margin":
            loss_BC = loss_BC / known_BC.sum(1, keepdim=True).clamp_min(1)
        term = MaskedSum(loss_BC.sum(), self.counts(batch)["classification"])
        return TaskOutput(terms={"classification": term}, weights={"classification": 1.0})

    def _terms(self, logits_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._objective.loss == "focal":
            return focal_terms(logits_BC, gamma=self._objective.focal_gamma)
        if self._objective.loss == "asymmetric":
            gammas, margin = self._objective.asymmetric_gammas, self._objective.asymmetric_margin
            return asymmetric_terms(logits_BC, gammas=gammas, margin=margin)
        return bce_terms(logits_BC)

    def new_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.network.head.parameters()
        yield from self.network.encoder.new_parameters()
