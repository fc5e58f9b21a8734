"""Training on images with both masks and boxes: shared by the first two stages of self-correcting networks."""

from __future__ import annotations

from typing import ClassVar

from shards.layer import Layer
from wsss.contract.cost import FitWork, PlanContext
from wsss.contract.fit import TrainingSet
from wsss.contract.settings import settings
from wsss.contract.stage import Instance
from wsss.stages.segmenter.box_source import BoxSource
from wsss.stages.segmenter.mask_supervision import MaskSupervision
from wsss.stages.segmenter.validation import SegmenterValidation


@settings
class BoxedTraining(BoxSource, MaskSupervision, SegmenterValidation):
    """A training on images with both masks and boxes: the first two of the three stages of self-correcting networks."""

    def reads_masks(self) -> bool:
        return True

    def reads_boxes(self) -> bool:
        return True

    def used_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in super().used_slots() if slot != "cams" or self.box_source == "cams")

    def check(self, instance: Instance) -> None:
        super().check(instance)
        self.check_mask_supervision(instance)
        self.check_boxes(instance)
        self.check_validation_split(instance)
        if not self.full_share:
            raise ValueError(
                f"{instance.name}.full_share = 0: {self.kind} trains on masks; set full_share above 0, the share of "
                "training images whose masks are used"
            )

    def cost(self, instance: Instance, context: PlanContext) -> FitWork:
        """Crops of the images whose masks are used."""
        from wsss.stages.segmenter.cost import segmenter_work

        frozen = tuple(slot for slot in ("ancillary",) if slot in instance.inputs)
        masks = self.planned_masks(context.train_images(max_shards=self.max_shards))
        return segmenter_work(self, context, examples=masks, frozen=frozen)

    def layers(self, instance: Instance) -> dict[str, Layer]:
        """The layers read for an image: its sample, and the maps if boxes are made from them."""
        return {slot: instance.inputs[slot].layer for slot in ("samples", "cams") if slot in instance.inputs}

    def training_set(self, instance: Instance) -> TrainingSet:
        from wsss.stages.segmenter.images import BoxedImages

        if self.validate_every:
            self.require_validation_masks(instance)
        full, boxed = self.full_keys(instance), self.with_boxes(instance)
        chosen = full if boxed is None else full & boxed
        records = self.joined(instance, self.layers(instance), lanes=self.batch_size, keep=chosen.__contains__)
        self.require_boxes(instance, len(records))
        return BoxedImages(
            self, records, seed=instance.seed, num_classes=len(instance.taxonomy) + 1, boxes=self, masked=True
        )


@settings
class AncillaryTraining(BoxedTraining):
    """A training that produces a `wsss.models.ancillary.AncillarySegmenter`."""

    trains: ClassVar[str] = "ancillary model"


@settings
class CorrectionTraining(BoxedTraining):
    """A training that produces a `wsss.models.correction.CorrectedSegmenter`."""

    trains: ClassVar[str] = "self-correction"
