"""make_scores: activation maps, propagated along affinities -> class scores, before any threshold or CRF.

Shape letters: `K` classes present, `L` planes (K, or K + 1 with the background's first), `D` channels, `H W` pixels,
`h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch.nn import functional

from shards.records import CamRecord, Record, Sample, ScoreRecord
from wsss.device import worker_device
from wsss.images import to_tensor
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.random_walk import feature_walk, random_walk
from wsss.ops.seeds import exponent_scores
from wsss.settings import read_with, settings
from wsss.stages.confident_images import ConfidentImages
from wsss.stages.fit import load_trained
from wsss.stages.stage import Instance, Map, ShardWorker, work_per_record
from wsss.stages.train_affinity import TrainAffinity

if TYPE_CHECKING:
    from wsss.models.affinitynet import AffinityNet
    from wsss.models.irnet import IRNet

Walk = Callable[[Sample, torch.Tensor], torch.Tensor]
"""(sample, planes f32[L, h, w]) -> the planes, propagated."""
_SMALLEST = 1e-12
_WALKED = read_with("propagation", "walk")


@settings
class MakeScores(ConfidentImages, Map):
    """Spread the maps by the random walk of IRNet, or of AffinityNet."""

    kind: ClassVar[str] = "make_scores"
    record_kind: ClassVar[str] = "score"
    aligned_with: ClassVar[str] = "cams"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "cams": ("make_cams", "make_segmenter_maps"),
        "affinity": ("train_affinity",),
    }

    propagation: Literal["walk", "none"] = "walk"
    """`walk`: the random walk of the trained network; `none`: the maps as they are, to see what the walk is worth."""
    radius: Annotated[int, Field(ge=2), _WALKED] = 5
    """A step reaches pixels nearer than this, in pixels of the network's grid: stride 4 (IRNet) or 8 (AffinityNet)."""
    beta: Annotated[float, Field(gt=0), _WALKED] = 10.0
    """Exponent of the affinities: larger ones make boundaries harder to cross (IRNet: 10; AffinityNet: 8)."""
    num_steps_log2: Annotated[int, Field(ge=0, le=16), _WALKED] = 8
    """The walk takes 2 ** this many steps."""
    normalisation: Annotated[Literal["global", "per_class"], _WALKED] = "global"
    """What was propagated is divided by the largest score of all classes (irn), or each class by its own."""
    background_exponent: Annotated[float, Field(gt=0)] | None = None
    """The background gets a score of (1 - largest map) to this power, which is propagated and kept beside the classes'
    (AffinityNet: 16); where not given there is none, and make_pseudo_labels makes the background."""

    def used_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.slots if slot != "affinity" or self.propagation == "walk")

    def worker(self, instance: Instance) -> ShardWorker:
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "cams")}
        affinity = instance.inputs.get("affinity")
        walk = _walk(self, affinity) if affinity else None

        def make(joined: Mapping[str, Record]) -> ScoreRecord:
            sample, cams = cast(Sample, joined["samples"]), cast(CamRecord, joined["cams"])
            return self._record(sample, cams, walk)

        return work_per_record(layers, make, leave_out=self.left_out)

    @torch.inference_mode()
    def _record(self, sample: Sample, cams: CamRecord, walk: Walk | None) -> ScoreRecord:
        """Scores f16[K, h, w], where they were propagated divided by their maximum, as irn does."""
        planes_Lhw = torch.from_numpy(cams.maps).to(worker_device()).float()
        if self.background_exponent is not None:
            planes_Lhw = exponent_scores(planes_Lhw, exponent=self.background_exponent)
        if walk is not None and len(cams.classes):
            planes_Lhw = walk(sample, planes_Lhw)
            planes_Lhw = self._normalised(planes_Lhw, num_classes=len(cams.classes))
        planes = planes_Lhw.half().cpu().numpy()
        background, scores = (None, planes) if self.background_exponent is None else (planes[0], planes[1:])
        return ScoreRecord(key=sample.key, classes=cams.classes, scores=scores, background=background, size=sample.size)

    def _normalised(self, planes_Lhw: torch.Tensor, *, num_classes: int) -> torch.Tensor:
        """Scores with a maximum of 1; the background's stays on the scale of the largest of them."""
        peaks_L11 = planes_Lhw.amax((1, 2), keepdim=True)
        largest = peaks_L11[-num_classes:].max()
        if self.normalisation == "global" or num_classes == 1:
            return planes_Lhw / largest.clamp_min(_SMALLEST)
        peaks_L11[:-num_classes] = largest
        return planes_Lhw / peaks_L11.clamp_min(_SMALLEST)


def _walk(stage: MakeScores, affinity: Instance) -> Walk:
    """The walk of the network that `affinity` trained."""
    trained = affinity.stage
    assert isinstance(trained, TrainAffinity)
    network = load_trained(affinity, device=worker_device())
    along = _along_boundaries if trained.network == "irnet" else _along_features

    def walk(sample: Sample, planes_Lhw: torch.Tensor) -> torch.Tensor:
        image_13HW = to_tensor(sample.image, mean=trained.mean, std=trained.std)[None].to(planes_Lhw.device)
        return along(stage, network, image_13HW, planes_Lhw)

    return walk


def _along_boundaries(
    stage: MakeScores, network: IRNet, image_13HW: torch.Tensor, planes_Lhw: torch.Tensor
) -> torch.Tensor:
    return random_walk(
        planes_Lhw,
        edge_hw=edge_probability(network, image_13HW),
        radius=stage.radius,
        beta=stage.beta,
        num_steps_log2=stage.num_steps_log2,
    )


def _along_features(
    stage: MakeScores, network: AffinityNet, image_13HW: torch.Tensor, planes_Lhw: torch.Tensor
) -> torch.Tensor:
    """On the grid of stride 8: planes are averaged onto it, and come back to stride 4 bilinearly."""
    coarse_Lhw = functional.avg_pool2d(planes_Lhw, 2, ceil_mode=True, count_include_pad=False)
    walked_Lhw = feature_walk(
        coarse_Lhw,
        features_Dhw=network(image_13HW)[0],
        radius=stage.radius,
        beta=stage.beta,
        num_steps_log2=stage.num_steps_log2,
    )
    return resize_bilinear(walked_Lhw[None], size=(planes_Lhw.shape[1], planes_Lhw.shape[2]))[0]


def edge_probability(network: IRNet, image_13HW: torch.Tensor) -> torch.Tensor:
    """f32[h, w]: boundary probability; logits of the image and its mirror image are averaged before the sigmoid.

    Source: irn's public code.
    """
    logits_21hw = network.edge_logits(torch.cat([image_13HW, image_13HW.flip(-1)]))
    mean_hw: torch.Tensor = (logits_21hw[0, 0] + logits_21hw[1, 0].flip(-1)) / 2
    return torch.sigmoid(mean_hw)
