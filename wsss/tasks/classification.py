"""Multi-label classification: which classes stand in the image.

Shape letters: `B` batch, `C` foreground classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from wsss.losses.masked_mean import MaskedSum
from wsss.tasks.task import Batch, Task, TaskOutput

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier


class ClassificationTask(Task):
    """Mean over known (image, class) pairs of a per-class loss on the logits.

    `bce` is binary cross entropy, which `multilabel_soft_margin_loss` (irn) equals; `focal` scales it by
    (1 - p_t)^2. Batch: `image` f32[B, 3, H, W], `target` f32[B, C] in {0, 1}, `known` f32[B, C] in {0, 1}.
    Source: Lin et al., Focal Loss, ICCV 2017, equation 4 (without its alpha).
    """

    network: Classifier

    def __init__(self, network: Classifier, *, loss: Literal["bce", "focal"], synchronise_norms: bool) -> None:
        super().__init__()
        self.network = network
        self.synchronise_norms = synchronise_norms
        self._loss = loss

    def forward(self, batch: Batch) -> TaskOutput:
        # The engine seeds torch's generator at every step, so a training that goes on draws what it would have drawn.
        logits_BC = self.network(batch["image"], generator=torch.default_generator).float()
        target_BC, known_BC = batch["target"], batch["known"]
        loss_BC = F.binary_cross_entropy_with_logits(logits_BC, target_BC, reduction="none")
        if self._loss == "focal":
            loss_BC = loss_BC * (1 - torch.exp(-loss_BC)).square()
        term = MaskedSum((loss_BC * known_BC).sum(), known_BC.sum())
        return TaskOutput(terms={"classification": term}, weights={"classification": 1.0})

    def new_parameters(self) -> Iterator[nn.Parameter]:
        return self.network.head.parameters()
