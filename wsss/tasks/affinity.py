"""IRNet's objective: boundaries and displacements from the affinity of pixel pairs.

Shape letters: `B` batch, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from wsss.losses.affinity_displacement import affinity_displacement_sums, pair_counts
from wsss.losses.masked_mean import MaskedSum
from wsss.tasks.task import Batch, Task, TaskOutput

if TYPE_CHECKING:
    from wsss.models.irnet import IRNet

WEIGHTS = {"bg_pos": 0.25, "fg_pos": 0.25, "neg": 0.5, "dp_fg": 0.5, "dp_bg": 0.5}
"""(bg / 2 + fg / 2 + neg) / 2 + (dp_fg + dp_bg) / 2, as irn's public code adds its terms."""
EPS = 1e-5
"""Added to every count, so that a batch without a kind of pair gives 0, as published."""


class AffinityTask(Task):
    """IRNet's five terms over all pixel pairs of the batches of all ranks.

    Batch: `image` f32[B, 3, H, W], `label` i64[B, h, w] (seeds, 255 = undecided).
    Source: Ahn et al., CVPR 2019, equations 5 to 13. Differs: means are over the pairs of all ranks.
    """

    network: IRNet
    synchronise_norms = False

    def __init__(self, network: IRNet, *, radius: int, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self._radius, self._num_classes = radius, num_classes

    def forward(self, batch: Batch) -> TaskOutput:
        edge_logits_B1hw, displacement_B2hw = self.network(batch["image"])
        sums = affinity_displacement_sums(
            edge_logits_B1hw.float(),
            displacement_B2hw=displacement_B2hw.float(),
            label_Bhw=batch["label"],
            radius=self._radius,
            num_classes=self._num_classes,
        )
        terms: dict[str, MaskedSum] = dict(zip(sums._fields, sums, strict=True))
        return TaskOutput(terms=terms, weights=WEIGHTS, eps=EPS)

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return pair_counts(batch["label"], radius=self._radius, num_classes=self._num_classes)

    def new_parameters(self) -> Iterator[nn.Parameter]:
        # irn trains boundaries at the base rate and displacements at ten times it.
        return self.network.displacement.parameters()
