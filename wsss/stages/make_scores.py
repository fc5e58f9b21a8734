"""make_scores: from activation maps propagated along affinities, class scores before any threshold or CRF.

Shape letters: `B` images, `K` classes present, `L` planes (K, or K + 1 with the background's first), `H W` pixels,
`h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from shards.records import GRID_STRIDE, CamRecord, Record, Sample, ScoreRecord
from wsss.contract.batch_parts import BatchParts
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.device import on_device, worker_device
from wsss.contract.settings import Scales, active_unless, active_with, settings
from wsss.contract.shard_workers import work_per_group
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.settings.confident_images import ConfidentImages
from wsss.stages.settings.trained_sizes import Views, outside_notes
from wsss.stages.settings.views import walk_size

if TYPE_CHECKING:
    import numpy as np
    import torch

    from wsss.stages.affinity.walk import Walk

_SMALLEST = 1e-12
NETWORKS = ("affinity", "second_affinity")
"""The slots of the networks along whose affinities the maps may walk."""
_WALKED = active_with("propagation", "walk")
_OWN_SCALE = (1.0,)


@settings
class MakeScores(ConfidentImages, Map):
    """Spread the maps by the random walk of IRNet or AffinityNet."""

    kind: ClassVar[str] = "make_scores"
    revision: ClassVar[int] = 3
    record_kind: ClassVar[str] = ScoreRecord.kind
    aligned_with: ClassVar[str] = "cams"
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "cams": Records((CamRecord,)),
        "affinity": Trained(AffinityTraining),
        "second_affinity": Trained(AffinityTraining),
    }

    propagation: Literal["walk", "none"] = "walk"
    """`walk`: the random walk of the trained network; `none`: the maps unchanged, to measure how much the walk
    helps."""
    second_affinity: Annotated[bool, _WALKED, active_unless("second_affinity", False)] = False
    """Walk over the mean of two transition matrices: of the network in slot `affinity`, and of the one in slot
    `second_affinity`, of the same kind (`wsss.ops.mean_walk`). It takes three times as long at 256 steps."""
    radius: Annotated[int, Field(ge=2), _WALKED] = 5
    """A step of the random walk reaches pixels nearer than this, in pixels of the network's grid: stride 4 (IRNet) or 8
    (AffinityNet)."""
    beta: Annotated[float, Field(gt=0), _WALKED] = 10.0
    """Exponent of the affinities: larger values make boundaries harder to cross (IRNet: 10; AffinityNet: 8)."""
    num_steps_log2: Annotated[int, Field(ge=0, le=16), _WALKED] = 8
    """The random walk takes 2 ** this many steps."""
    normalisation: Annotated[Literal["global", "per_class"], _WALKED] = "global"
    """Propagated scores are divided by the largest score of all classes and pixels (`global`, as in irn), or
    by the largest of their own class (`per_class`)."""
    long_side: Annotated[int, Field(ge=0), _WALKED, active_unless("long_side", 0)] = 0
    """The network sees the image with a longer side of this many pixels, such as the middle of its sizes in training,
    and the maps walk on the grid of that image; scores are resized back to the stride-4 grid of the image itself. No
    side gets shorter than 32 pixels. 0: the image's own size."""
    edge_scales: Annotated[Scales, _WALKED, active_unless("edge_scales", _OWN_SCALE)] = _OWN_SCALE
    """IRNet: scales at which boundaries are predicted, as factors of the size that the network sees; boundary logits
    are resized to the grid of scale 1 and averaged. [1.0]: as published. Not for AffinityNet, which has none."""
    background_exponent: Annotated[float, Field(gt=0)] | None = None
    """The background's score is (1 - largest map) to this power, propagated and stored with the classes' scores
    (AffinityNet: 16). If not given, there is no such score and make_pseudo_labels computes the background itself."""
    batch_images: Annotated[int, Field(ge=1)] = 1
    """Images of equal size that are processed together: use 1 on CPUs, 8 or more on a GPU."""

    def used_slots(self) -> tuple[str, ...]:
        networks = {"affinity": True, "second_affinity": self.second_affinity}
        walks = self.propagation == "walk"
        return tuple(slot for slot in self.slots if slot not in networks or (walks and networks[slot]))

    def check(self, instance: Instance) -> None:
        self.check_probabilities(instance)
        if self.edge_scales != _OWN_SCALE and "affinity" in instance.inputs:
            self._check_edge_scales(instance)
        if "second_affinity" in instance.inputs:
            self._check_second(instance)

    def _check_edge_scales(self, instance: Instance) -> None:
        network = instance.stage_in("affinity", AffinityTraining).network
        if network != "irnet":
            raise ValueError(
                f"{instance.name}.edge_scales = {list(self.edge_scales)} averages IRNet's boundary maps, but "
                f"{instance.inputs['affinity'].name}.network = {network!r} predicts no boundaries; remove edge_scales, "
                "or name a training of an IRNet as inputs.affinity"
            )

    def _check_second(self, instance: Instance) -> None:
        first, second = instance.inputs["affinity"], instance.inputs["second_affinity"]
        if first.fingerprint == second.fingerprint:
            raise ValueError(
                f"{instance.name}.second_affinity = true, but both slots hold {first.name}; name two trainings in "
                'inputs = { affinity = "...", second_affinity = "..." }'
            )
        kinds = [instance.stage_in(slot, AffinityTraining).network for slot in NETWORKS]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"{instance.name}.second_affinity = true needs two networks of one kind, because their matrices need "
                f"one grid; {first.name} is {kinds[0]!r} and {second.name} {kinds[1]!r}; name another training, or "
                "combine their pseudo labels with make_agreed_labels"
            )

    def cautions(self, instance: Instance) -> list[str]:
        trained = [instance.inputs[slot] for slot in NETWORKS if slot in instance.inputs]
        views = Views(long_side=self.long_side)
        if self.edge_scales != _OWN_SCALE:
            views = Views(scales=self.edge_scales, long_side=self.long_side, setting="edge_scales")
        return [note for one in trained for note in outside_notes(instance, one, views, splits=self.splits)]

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        return frozenset() if self.background_exponent is None else frozenset({"background"})

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """The affinity network on an image, then the random walk; without a walk, only reading and writing."""
        if "affinity" not in instance.inputs:
            return context.map_work(Load(), has_network=False, notes=self.plan_notes())
        from wsss.stages.affinity.cost import walk_load

        stats = context.stats
        load = Load(core={"decode_image": stats.megapixels})
        for slot in (slot for slot in NETWORKS if slot in instance.inputs):
            load += walk_load(
                instance.stage_in(slot, AffinityTraining),
                context,
                num_steps_log2=self.num_steps_log2 if slot == "affinity" else 0,  # the matrices' mean walks once
                size=walk_size(stats.size, long_side=self.long_side),
                planes=stats.labels + (self.background_exponent is not None),
                batch_images=self.batch_images,
                slot=slot,
                whole_power=self.second_affinity,
                edge_scales=self.edge_scales,
            )
        return context.map_work(load * stats.labelled_share, has_network=True, notes=self.plan_notes())

    def worker(self, instance: Instance) -> ShardWorker:
        import torch

        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "cams")}
        walk = self.walk(instance) if "affinity" in instance.inputs else None

        def make(together: Sequence[Mapping[str, Record]], images: Sequence[np.ndarray]) -> list[ScoreRecord]:
            cams = [cast(CamRecord, joined["cams"]) for joined in together]
            with torch.inference_mode():
                return self._records(cams, images, walk)

        parts = BatchParts(self.batch_images, setting="batch_images")
        return work_per_group(layers, make, parts=parts, leave_out=self.left_out)

    def walk(self, instance: Instance, *, num_steps_log2: int | None = None) -> Walk:
        """The random walk, with its networks loaded; `num_steps_log2`: instead of the setting."""
        from wsss.stages.affinity.mean_walk import mean_walk_of
        from wsss.stages.affinity.walk import walk_of

        log2 = self.num_steps_log2 if num_steps_log2 is None else num_steps_log2
        steps: dict[str, Any] = {"radius": self.radius, "beta": self.beta, "num_steps_log2": log2}
        steps |= {"long_side": self.long_side, "edge_scales": self.edge_scales}
        if "second_affinity" in instance.inputs:
            return mean_walk_of([instance.inputs[slot] for slot in NETWORKS], **steps)
        return walk_of(instance.inputs["affinity"], **steps)

    def _records(self, cams: Sequence[CamRecord], images: Sequence[np.ndarray], walk: Walk | None) -> list[ScoreRecord]:
        """Scores f16[K, h, w] of images of one size; propagated ones are divided by their maximum over the pixels.

        The first plane is the background, if background_exponent is set.
        """
        import torch

        from wsss.ops.seeds import exponent_scores

        planes = [on_device(torch.from_numpy(record.maps), worker_device()).float() for record in cams]
        if self.background_exponent is not None:
            planes = [exponent_scores(planes_Khw, exponent=self.background_exponent) for planes_Khw in planes]
        labelled = [place for place, record in enumerate(cams) if len(record.classes)]
        if walk is not None and labelled:
            walked = _together([planes[place] for place in labelled], walk, [images[place] for place in labelled])
            for place, planes_Lhw in zip(labelled, walked, strict=True):
                planes[place] = self._normalised(planes_Lhw, size=cams[place].size)
        return [self._record(record, planes_Lhw) for record, planes_Lhw in zip(cams, planes, strict=True)]

    def _record(self, cams: CamRecord, planes_Lhw: torch.Tensor) -> ScoreRecord:
        import torch

        # If all maps are almost zero, the background's score exceeds the range of float16.
        planes = planes_Lhw.clamp_max(torch.finfo(torch.float16).max).half().cpu().numpy()
        background, scores = (None, planes) if self.background_exponent is None else (planes[0], planes[1:])
        return ScoreRecord(
            key=cams.key,
            classes=cams.classes,
            scores=scores,
            background=background,
            unknown=cams.unknown,
            size=cams.size,
        )

    def _normalised(self, planes_Lhw: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
        """Scores with a maximum of 1 over the image's pixels; the background is divided by the largest of all classes.

        As irn: scores are magnified four times and cropped to the image before their maximum is taken.
        """
        import torch

        from wsss.ops.multi_scale import magnify

        peaks_L11 = magnify(planes_Lhw, size=size, stride=GRID_STRIDE).amax((1, 2), keepdim=True).clamp_min(_SMALLEST)
        first = int(self.background_exponent is not None)
        largest = peaks_L11[first:].max()
        if self.normalisation == "global":
            return planes_Lhw / largest
        return planes_Lhw / torch.cat([largest.expand(first, 1, 1), peaks_L11[first:]])


def _together(planes: Sequence[torch.Tensor], walk: Walk, images: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Walk images with different numbers of planes as one stack, padded with planes of zeros."""
    import torch
    from torch.nn import functional

    most = max(len(planes_Lhw) for planes_Lhw in planes)
    stacked_BLhw = torch.stack([functional.pad(one, (0, 0, 0, 0, 0, most - len(one))) for one in planes])
    walked_BLhw = walk(images, stacked_BLhw)
    return [walked_Lhw[: len(one)] for walked_Lhw, one in zip(walked_BLhw, planes, strict=True)]
