"""The objectives of IRNet and AffinityNet over pixel pairs.

Shape letters: `B` batch, `h w` the network's grid, of stride 4 (IRNet) or 8 (AffinityNet).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from wsss.losses.affinity_displacement import affinity_displacement_sums, pair_counts, pair_kinds
from wsss.losses.feature_affinity import feature_affinity_sums
from wsss.losses.masked_mean import MaskedSum
from wsss.ops.feature_affinity import interior_feature_affinity
from wsss.tasks.task import Batch, Task, TaskOutput

if TYPE_CHECKING:
    from wsss.models.affinitynet import AffinityNet
    from wsss.models.irnet import IRNet

IRNET_WEIGHTS = {"bg_pos": 0.25, "fg_pos": 0.25, "neg": 0.5, "dp_fg": 0.5, "dp_bg": 0.5}
"""(bg / 2 + fg / 2 + neg) / 2 + (dp_fg + dp_bg) / 2, as irn's public code adds its terms."""
AFFINITYNET_WEIGHTS = {"bg_pos": 0.25, "fg_pos": 0.25, "neg": 0.5}
"""bg / 4 + fg / 4 + neg / 2, as psa's public code adds its terms."""
EPS = 1e-5
"""Added to every count, so that the term is 0 for a batch without pairs of that kind, as published."""


class IRNetTask(Task):
    """IRNet's five terms over all pixel pairs of the batches of all ranks.

    Batch: `image` f32[B, 3, H, W], `label` i64[B, h, w] (seeds, any other value than a class = undecided).
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
        return TaskOutput(terms=terms, weights=IRNET_WEIGHTS, eps=EPS)

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return pair_counts(batch["label"], radius=self._radius, num_classes=self._num_classes)

    def new_parameters(self) -> Iterator[nn.Parameter]:
        # irn trains boundaries at the base learning rate and displacements at ten times that.
        return self.network.displacement.parameters()


class AffinityNetTask(Task):
    """AffinityNet's three terms over all pixel pairs of the batches of all ranks.

    Batch: `image` f32[B, 3, H, W], `label` i64[B, h, w] (seeds, any other value than a class = undecided).
    Source: Ahn and Kwak, CVPR 2018, equations 3 to 5. Differs: means are over the pairs of all ranks.
    """

    network: AffinityNet

    def __init__(self, network: AffinityNet, *, radius: int, num_classes: int, synchronise_norms: bool = False) -> None:
        super().__init__()
        self.network, self.synchronise_norms = network, synchronise_norms
        self._radius, self._num_classes = radius, num_classes

    def forward(self, batch: Batch) -> TaskOutput:
        features_BDhw = self.network(batch["image"]).float()
        affinity_PBuv = interior_feature_affinity(features_BDhw, radius=self._radius)
        kind_PBuv = pair_kinds(batch["label"], radius=self._radius, num_classes=self._num_classes)
        sums = feature_affinity_sums(affinity_PBuv, kind_PBuv=kind_PBuv)
        terms: dict[str, MaskedSum] = dict(zip(sums._fields, sums, strict=True))
        return TaskOutput(terms=terms, weights=AFFINITYNET_WEIGHTS, eps=EPS)

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        counts = pair_counts(batch["label"], radius=self._radius, num_classes=self._num_classes)
        return {name: counts[name] for name in AFFINITYNET_WEIGHTS}

    def new_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.network.encoder.new_parameters()
        yield from self.network.branches.parameters()
        yield from self.network.join.parameters()
