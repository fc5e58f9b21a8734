"""cross_entropy: trains on the pixels of pseudo labels, of an earlier segmenter's predictions, or of masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from shards.label_type import label_type
from shards.records import Prediction, PseudoLabel
from wsss.contract.fit import TrainingSet
from wsss.contract.settings import ActiveIf, active_unless, resolved, settings
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map
from wsss.stages.objectives.objective import Objective
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.stages.segmenter.mask_supervision import TRAIN

if TYPE_CHECKING:
    from wsss.stages.segmenter.images import SegmenterImages
    from wsss.tasks.task import Task

_ON_PSEUDO_LABELS = ActiveIf(
    "objective = 'cross_entropy' and full_share below 1",
    lambda stage: stage.objective == "cross_entropy" and stage.supervision() != "full",
)


@settings
class CrossEntropySettings(ImageSegmenterTraining):
    """Which pixels of the pseudo labels are used, and their weights."""

    confidence_threshold: Annotated[float, Field(ge=0, lt=1), _ON_PSEUDO_LABELS] = 0.0
    """Pixels of the pseudo labels, or predictions, with a confidence below this are ignored."""
    confidence_power: Annotated[float, Field(ge=0), _ON_PSEUDO_LABELS, active_unless("confidence_power", 0.0)] = 0.0
    """The weight of a pixel is the confidence of its pseudo label, in [0, 1], to this power; with 0 all pixels have the
    same weight."""


class CrossEntropy(Objective):
    """Cross entropy with pseudo labels, with masks, or with both in each batch."""

    # Predictions are used only if a recipe names them. Otherwise a second segmenter would be trained on the first one's
    # predictions.
    slots: ClassVar[dict[str, Slot]] = {"pseudo_labels": Records((PseudoLabel, Prediction), only_named=(Prediction,))}

    def __init__(self, training: CrossEntropySettings) -> None:
        super().__init__(training)
        self.settings = training

    def used_slots(self) -> frozenset[str]:
        return frozenset() if self.training.supervision() == "full" else frozenset(self.slots)

    def check(self, instance: Instance) -> None:
        labels = instance.inputs.get("pseudo_labels")
        # By default predict makes only val. Pseudo labels of val alone are accepted here: sweeps make whole recipes so.
        if labels is None or labels.layer.kind != Prediction.kind:
            return
        if TRAIN not in instance.stage_in("pseudo_labels", Map).splits:
            raise ValueError(
                f"{instance.name} trains on the split {TRAIN!r}, which {labels.name} does not make; set "
                f'{labels.name}.splits = ["{TRAIN}"], or name another instance as inputs.pseudo_labels'
            )

    def task(self, instance: Instance) -> Task:
        from wsss.tasks.segmentation import SegmentationTask
        from wsss.tasks.semi_supervised import SemiSupervisedTask

        training, ignored = self.training, label_type(len(instance.taxonomy)).ignore
        network, synchronised = self.starting_network(instance), training.synchronise_norms
        task = SegmentationTask(network, synchronise_norms=synchronised, ignore_index=ignored)
        if training.supervision() != "semi":
            return task
        weight = resolved(training, "full_weight")
        return SemiSupervisedTask(task, full_weight=weight, per_image=False, ignore_index=ignored)

    def training_set(self, instance: Instance) -> TrainingSet:
        training = self.training
        if training.supervision() == "image":
            return self._pseudo_labelled(instance, full=frozenset())
        full = training.full_keys(instance)
        if training.supervision() == "full":
            return training.masked_images(instance, full, name="label")
        masked = training.masked_images(instance, full, name="mask")
        return training.mixed(instance, masked, self._pseudo_labelled(instance, full=full))

    def _pseudo_labelled(self, instance: Instance, *, full: frozenset[str]) -> SegmenterImages:
        from wsss.stages.segmenter.images import PseudoLabelledImages

        training = self.training
        records = training.joined(
            instance,
            ("samples", "pseudo_labels"),
            lanes=training.lanes(masked=False),
            keep=lambda key: key not in full,
        )
        return PseudoLabelledImages(
            training,
            records,
            seed=instance.seed,
            num_classes=len(instance.taxonomy) + 1,
            confidence_threshold=self.settings.confidence_threshold,
            confidence_power=self.settings.confidence_power,
        )
