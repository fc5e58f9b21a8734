"""train_ancillary: from masks and boxes, a segmentation network with boxes as input, for self-correcting networks.

Shape letters: `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from shards.label_type import label_type
from shards.layer import Layer
from shards.records import BadSampleError, CamRecord, Sample, grid_size
from wsss.contract.fit import TrainingSet, Validation
from wsss.contract.settings import settings
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Outcome
from wsss.data.joined_records import JoinedRecords
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.segmenter.boxed_training import AncillaryTraining

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wsss.models.ancillary import AncillarySegmenter
    from wsss.tasks.task import Task


@settings
class TrainAncillary(AncillaryTraining):
    """Train the ancillary model: a DeepLabv3+ whose inputs are an image and its boxes.

    For the convolutional self-correction, set its full_share to half of the later stages' share. A model that was
    trained on the same masks as the correction would be overconfident on them.

    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), section 3.1.
    """

    kind: ClassVar[str] = "train_ancillary"
    revision: ClassVar[int] = 3
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "classifier": Trained(ClassifierTraining),
        "cams": Records((CamRecord,)),
    }

    def check(self, instance: Instance) -> None:
        super().check(instance)
        if self.network != "deeplabv3plus":
            raise ValueError(
                f"{instance.name}.network = {self.network!r}: only 'deeplabv3plus' takes boxes as input; set it"
            )

        if self.validate_every and self.box_source == "cams":
            self.require_maps(instance, split=self.validation_split)

    def training_set(self, instance: Instance) -> TrainingSet:
        if self.validate_every:  # fail now instead of at the first validation
            self.with_boxes(instance, split=self.validation_split)
        return super().training_set(instance)

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        from wsss.models.ancillary import AncillarySegmenter
        from wsss.models.segmenter import Segmenter

        segmenter = self.segmenter(instance, pretrained=pretrained)
        return AncillarySegmenter(cast(Segmenter, segmenter), num_classes=len(instance.taxonomy) + 1)

    def forward_pass(self, network: Any, image_B3HW: torch.Tensor, instance: Instance) -> torch.Tensor:
        """Called with images and their boxes, on the stride-4 grid."""
        num_images, _, height, width = image_B3HW.shape
        planes_BChw = image_B3HW.new_zeros(num_images, len(instance.taxonomy) + 1, *grid_size((height, width))).bool()
        logits_BCHW: torch.Tensor = network(image_B3HW, planes_BChw)
        return logits_BCHW

    def task(self, instance: Instance) -> Task:
        from wsss.tasks.self_correction import AncillaryTask

        network = cast("AncillarySegmenter", self.model(instance, pretrained=True))
        ignored = label_type(len(instance.taxonomy)).ignore
        return AncillaryTask(network, synchronise_norms=self.synchronise_norms, ignore_index=ignored)

    def validate(self, network: Any, instance: Instance) -> Validation:
        """Mean IoU on the validation split, with its boxes as input: the quality to expect of the soft labels."""
        return self.mean_iou(network, instance)

    def finish(self, network: Any, instance: Instance) -> Outcome:
        """The last validation; without `validate_every` nothing."""
        return self.validate(network, instance).outcome if self.validate_every else Outcome()

    def validation_layers(self, instance: Instance) -> dict[str, Layer]:
        return self.layers(instance)

    def validation_sample(self, records: JoinedRecords, index: int) -> Sample:
        sample = records.sample(index)
        if self.box_source == "annotated" or sample.mask is None:  # images without a mask are skipped
            return sample
        cams = records.record(index, "cams") if self.box_source == "cams" else None
        return replace(sample, boxes=self.boxes_of(sample, cams))

    def logits_of(self, network: AncillarySegmenter, image_13HW: torch.Tensor, sample: Sample) -> torch.Tensor:
        """Logits f32[1, C, H, W], with the image's boxes as input."""
        from wsss.stages.segmenter.box_planes import grid_planes, planes_of_boxes

        if sample.boxes is None:
            raise BadSampleError("its boxes are not known")
        classes, inside_HWK = planes_of_boxes(sample.boxes, size=sample.size)
        planes = grid_planes(inside_HWK, classes, num_classes=network.num_classes)
        logits_1CHW: torch.Tensor = network(image_13HW, planes[None].to(image_13HW.device)).float()
        return logits_1CHW
