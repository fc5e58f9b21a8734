"""train_correction: the second of the three stages of convolutional self-correction, on masks and boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from shards.label_type import label_type
from shards.records import CamRecord, Sample
from wsss.contract.fit import Validation, load_trained
from wsss.contract.settings import settings
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Outcome
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.segmenter.box_source import require_same_boxes
from wsss.stages.segmenter.boxed_training import AncillaryTraining, CorrectionTraining
from wsss.stages.segmenter.training import require_same_colours

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wsss.models.correction import CorrectedSegmenter
    from wsss.tasks.task import Task


@settings
class TrainCorrection(CorrectionTraining):
    """Train the primary model and the correction that later makes its soft labels, with a frozen ancillary model.

    `train_segmenter` with `self_correction = "conv"` starts from both. The parts that were initialised randomly here
    (the decoder and the correction) keep the head's learning rate there.

    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), section 3.3.
    """

    kind: ClassVar[str] = "train_correction"
    revision: ClassVar[int] = 3
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "ancillary": Trained(AncillaryTraining),
        "classifier": Trained(ClassifierTraining),
        "cams": Records((CamRecord,)),
    }

    def check(self, instance: Instance) -> None:
        super().check(instance)
        require_same_boxes(self, instance, instance.inputs["ancillary"])
        require_same_colours(instance, instance.inputs["ancillary"])
        self._check_new_masks(instance, instance.inputs["ancillary"])
        if self.zero_stage == 3:
            raise ValueError(
                f"{instance.name}.zero_stage = 3: the frozen ancillary model is not sharded; set zero_stage = 2 or less"
            )

    def _check_new_masks(self, instance: Instance, ancillary: Instance) -> None:
        """Refuse if all masks were also used to train the ancillary model: it makes no errors on them to correct."""
        earlier = instance.stage_in("ancillary", AncillaryTraining)
        among = [(stage.full_list, stage.max_shards) for stage in (self, earlier)]
        if among[0] == among[1] and earlier.full_share >= self.full_share:
            raise ValueError(
                f"{instance.name}.full_share = {self.full_share}, but {ancillary.name}.full_share = "
                f"{earlier.full_share} of the same masks includes all of these; set {ancillary.name}.full_share "
                "smaller (published: half as large)"
            )

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        from wsss.models.correction import ConvSelfCorrection, CorrectedSegmenter

        primary = self.segmenter(instance, pretrained=pretrained)
        return CorrectedSegmenter(primary, ConvSelfCorrection(len(instance.taxonomy) + 1))

    def forward_pass(self, network: Any, image_B3HW: torch.Tensor, instance: Instance) -> Any:
        """The primary model on images, and the correction on its logits."""
        logits_BCHW = network.primary(image_B3HW)
        return logits_BCHW, network.corrector(logits_BCHW.detach(), logits_BCHW.new_zeros(logits_BCHW.shape))

    def task(self, instance: Instance) -> Task:
        from wsss.tasks.self_correction import CorrectionTask

        network = cast("CorrectedSegmenter", self.model(instance, pretrained=True))
        ancillary = load_trained(instance.inputs["ancillary"])
        ignored = label_type(len(instance.taxonomy)).ignore
        return CorrectionTask(network, ancillary, synchronise_norms=self.synchronise_norms, ignore_index=ignored)

    def validate(self, network: Any, instance: Instance) -> Validation:
        """Mean IoU of the primary model on the validation split."""
        return self.mean_iou(network, instance)

    def finish(self, network: Any, instance: Instance) -> Outcome:
        """The last validation; without `validate_every` nothing."""
        return self.validate(network, instance).outcome if self.validate_every else Outcome()
