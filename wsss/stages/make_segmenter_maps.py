"""make_segmenter_maps: from a trained segmenter and the image's labels, maps of the classes present, as from make_cams.

Shape letters: `C` classes with background, `K` classes present, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from shards.label_type import class_ids
from shards.layer import split_of
from shards.records import CamRecord, Missing, Record, Sample, grid_size
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.device import worker_device
from wsss.contract.fit import Fit, load_trained
from wsss.contract.settings import ActiveIf, settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.stages.segmenter.views import SegmenterViews
from wsss.stages.settings.trained_sizes import Views, outside_notes
from wsss.stages.settings.unknown_classes import LabelReading, Unchecked, left_out_for_unknown, left_out_without_maps

if TYPE_CHECKING:
    import torch

_EVEN = 1e-12
_REVISION_OF_DROPPED = 4
_ALONE = ActiveIf("weight = 1", lambda stage: stage.weight == 1)


@settings
class MakeSegmenterMaps(SegmenterViews, LabelReading, Map):
    """The first step of a second training round: maps from a segmenter trained on the first round's pseudo labels.

    Training averages out label errors over many images. The maps are used like activation maps: for seeds or a random
    walk. Only image-level labels are used, as in all stages before prediction.
    """

    kind: ClassVar[str] = "make_segmenter_maps"
    revision: ClassVar[int] = 3
    record_kind: ClassVar[str] = CamRecord.kind
    aligned_with: ClassVar[str] = "cams"
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "segmenter": Trained(ImageSegmenterTraining),
        "cams": Records((CamRecord,)),
    }

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Weight of the segmenter's maps in their weighted mean with the maps in slot `cams`; with 1, slot `cams` is not
    read. Classes that the segmenter has not learned keep these maps."""
    unchecked: Annotated[Unchecked, _ALONE] = "unknown"
    """weight = 1: as `make_cams.unchecked`. With a smaller weight the maps in slot `cams` decide."""
    unknown_classes: Annotated[Literal["left_out", "undecided"], _ALONE] = "left_out"
    """weight = 1: as `make_cams.unknown_classes`. With a smaller weight the maps in slot `cams` decide."""

    def used_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.slots if slot != "cams" or self.weight < 1)

    def revision_with(self, inputs: Mapping[str, Instance]) -> int:
        """Only behind dropped classes results have changed: these are not unknown, and have no map of the segmenter."""
        segmenter = inputs["segmenter"]
        dropped = len(_segmented(segmenter)) < len(segmenter.taxonomy)
        return max(self.own_revision(), _REVISION_OF_DROPPED if dropped else 0)

    def cautions(self, instance: Instance) -> list[str]:
        views = Views(scales=self.scales, long_side=self.long_side, setting="scales")
        return outside_notes(instance, instance.inputs["segmenter"], views, splits=self.splits)

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        """`probabilities`, if the maps in slot `cams` have them."""
        if "cams" not in instance.inputs:
            return frozenset()
        earlier = instance.stage_in("cams", Map).optional_fields(instance.inputs["cams"])
        return earlier & frozenset({"probabilities"})

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Views through the segmenter, merged on the stride-4 grid."""
        from wsss.stages.segmenter.cost import views_load

        num_classes = len(instance.taxonomy) + 1
        load = views_load(self, context, num_classes=num_classes, merged=context.stats.meganodes)
        return context.map_work(Load(core={"decode_image": context.stats.megapixels}) + load, has_network=True)

    def worker(self, instance: Instance) -> ShardWorker:
        import torch

        from wsss.models.inference import for_inference

        trained = instance.inputs["segmenter"]
        network = for_inference(load_trained(trained, device=worker_device()))
        layers = {slot: instance.inputs[slot].layer for slot in self.used_slots() if slot != "segmenter"}

        def read(joined: Mapping[str, Record], shard: str) -> Sample:
            sample = self.as_read(cast(Sample, joined["samples"]), split_of(shard))
            known, unknown = (tuple(c for c in of if c in mapped) for of in (sample.classes, sample.unknown))
            return replace(sample, classes=known, unknown=unknown)

        def make(shard: str, joined: Mapping[str, Record]) -> CamRecord:
            with torch.inference_mode():
                earlier = cast(CamRecord | None, joined.get("cams"))
                return self._record(read(joined, shard), earlier, network, trained.stage, mapped=mapped)

        def leave_out(joined: Mapping[str, Record], shard: str) -> Missing | None:
            if "cams" in joined:
                return None
            if self.unknown_classes == "left_out":
                missing = left_out_for_unknown(read(joined, shard), mapped)
                if missing is not None:
                    return missing
            return left_out_without_maps(cast(Sample, joined["samples"]), shard, mapped)

        mapped = _segmented(trained)
        return lambda shard: work_per_record(layers, partial(make, shard), leave_out=leave_out)(shard)

    def _record(
        self, sample: Sample, earlier: CamRecord | None, network: Any, trained: Any, *, mapped: frozenset[int]
    ) -> CamRecord:
        import torch

        from wsss.ops.cam import normalise_per_class

        # make_cams may have assigned classes to an image without labels.
        classes = list(sample.classes) if earlier is None else earlier.classes.tolist()
        probability_Chw = self.probabilities(sample, network, trained, size=grid_size(sample.size))
        own = [place for place, class_id in enumerate(classes) if class_id in mapped]
        maps_Khw = present_maps(probability_Chw, classes=[classes[place] for place in own])
        if earlier is not None and classes:
            mean_Khw = torch.from_numpy(earlier.maps).to(maps_Khw)
            mean_Khw[own] = self.weight * maps_Khw + (1 - self.weight) * mean_Khw[own]
            maps_Khw = normalise_per_class(mean_Khw)
        return CamRecord(
            key=sample.key,
            classes=class_ids(classes),
            maps=maps_Khw.half().cpu().numpy(),
            probabilities=None if earlier is None else earlier.probabilities,
            unknown=sample.unknown if earlier is None else earlier.unknown,
            size=sample.size,
        )


def _segmented(trained: Instance) -> frozenset[int]:
    """The classes that a segmenter has learned. It has seen others as background: its maps of them are noise."""
    assert isinstance(trained.stage, Fit)
    learned = trained.stage.learned_classes(trained)
    return frozenset(range(1, len(trained.taxonomy) + 1)) if learned is None else learned


def present_maps(probability_Chw: torch.Tensor, *, classes: list[int]) -> torch.Tensor:
    """p_k / (p_0 + sum over present classes j of p_j), each class divided by its maximum: f32[K, h, w].

    The softmax over the background and the classes present only: classes absent from the image's labels are excluded.

    Source: ours.
    """
    from wsss.ops.cam import normalise_per_class

    if not classes:
        return probability_Chw.new_zeros((0, *probability_Chw.shape[1:]))
    possible_Lhw = probability_Chw[[0, *classes]] + _EVEN
    return normalise_per_class(possible_Lhw[1:] / possible_Lhw.sum(0))
