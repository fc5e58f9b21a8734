"""make_scores: activation maps, propagated along affinities -> class scores, before any threshold or CRF.

Shape letters: `K` classes present, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field

from shards.records import CamRecord, Record, Sample, ScoreRecord
from wsss.device import worker_device
from wsss.images import to_tensor
from wsss.ops.random_walk import random_walk
from wsss.settings import read_with, settings
from wsss.stages.fit import load_trained
from wsss.stages.stage import Instance, Map, ShardWorker, work_per_record

if TYPE_CHECKING:
    from wsss.models.irnet import IRNet


@settings
class MakeScores(Map):
    """Spread the maps by IRNet's random walk."""

    kind: ClassVar[str] = "make_scores"
    record_kind: ClassVar[str] = "score"
    aligned_with: ClassVar[str] = "cams"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "cams": ("make_cams",),
        "affinity": ("train_affinity",),
    }

    propagation: Literal["walk", "none"] = "walk"
    """`walk`: IRNet's random walk; `none`: the maps as they are, to see what the walk is worth."""
    radius: Annotated[int, Field(ge=2), read_with("propagation", "walk")] = 5
    """A step reaches pixels nearer than this, in pixels of the stride-4 grid."""
    beta: Annotated[float, Field(gt=0), read_with("propagation", "walk")] = 10.0
    """Exponent of the affinities: larger ones make boundaries harder to cross."""
    num_steps_log2: Annotated[int, Field(ge=0, le=16), read_with("propagation", "walk")] = 8
    """The walk takes 2 ** this many steps."""

    def used_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.slots if slot != "affinity" or self.propagation == "walk")

    def worker(self, instance: Instance) -> ShardWorker:
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "cams")}
        affinity = instance.inputs.get("affinity")
        network = load_trained(affinity, device=worker_device()) if affinity else None

        def make(joined: Mapping[str, Record]) -> ScoreRecord:
            sample, cams = cast(Sample, joined["samples"]), cast(CamRecord, joined["cams"])
            scores = self._scores(sample, cams, network, affinity.stage if affinity else None)
            return ScoreRecord(key=sample.key, classes=cams.classes, scores=scores, size=sample.size)

        return work_per_record(layers, make)

    @torch.inference_mode()
    def _scores(self, sample: Sample, cams: CamRecord, network: IRNet | None, trained: Any) -> np.ndarray:
        """f16[K, h, w], divided by the maximum over classes and pixels, as irn does."""
        if network is None or len(cams.classes) == 0:
            return cams.maps
        device = next(network.parameters()).device
        image_13HW = to_tensor(sample.image, mean=trained.mean, std=trained.std)[None].to(device)
        scores_Khw = random_walk(
            torch.from_numpy(cams.maps).to(device).float(),
            edge_hw=edge_probability(network, image_13HW),
            radius=self.radius,
            beta=self.beta,
            num_steps_log2=self.num_steps_log2,
        )
        scores_Khw = scores_Khw / scores_Khw.max().clamp_min(1e-12)
        return scores_Khw.half().cpu().numpy()


def edge_probability(network: IRNet, image_13HW: torch.Tensor) -> torch.Tensor:
    """f32[h, w]: boundary probability; logits of the image and its mirror image are averaged before the sigmoid.

    Source: irn's public code.
    """
    logits_21hw = network.edge_logits(torch.cat([image_13HW, image_13HW.flip(-1)]))
    mean_hw: torch.Tensor = (logits_21hw[0, 0] + logits_21hw[1, 0].flip(-1)) / 2
    return torch.sigmoid(mean_hw)
