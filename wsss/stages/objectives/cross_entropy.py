"""cross_entropy: trains on the pixels of pseudo labels, of an earlier segmenter's predictions, or of masks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

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
    from wsss.tasks.segmentation import PixelCost, SegmentationTask
    from wsss.tasks.task import Task

_ON_PSEUDO_LABELS = ActiveIf(
    "objective = 'cross_entropy' or 'mean_teacher', and full_share below 1",
    lambda stage: stage.objective in ("cross_entropy", "mean_teacher") and stage.supervision() != "full",
)


def _read_with_loss(loss: str) -> ActiveIf:
    return ActiveIf(
        f"{_ON_PSEUDO_LABELS.condition}, and pixel_loss = {loss!r}",
        lambda stage: _ON_PSEUDO_LABELS.holds(stage) and stage.pixel_loss == loss,
    )


@settings
class CrossEntropySettings(ImageSegmenterTraining):
    """Which pixels of the pseudo labels are used, their weights, and their loss."""

    confidence_threshold: Annotated[float, Field(ge=0, lt=1), _ON_PSEUDO_LABELS] = 0.0
    """Pixels of the pseudo labels, or predictions, with a confidence below this are ignored."""
    confidence_power: Annotated[float, Field(ge=0), _ON_PSEUDO_LABELS, active_unless("confidence_power", 0.0)] = 0.0
    """The weight of a pixel is the confidence of its pseudo label, in [0, 1], to this power; with 0 all pixels have the
    same weight."""
    pixel_loss: Annotated[
        Literal["cross_entropy", "symmetric", "generalised"],
        _ON_PSEUDO_LABELS,
        active_unless("pixel_loss", "cross_entropy"),
    ] = "cross_entropy"
    """The loss of a pixel of the pseudo labels; the other two learn less from labels that contradict the network.
    `cross_entropy`: -log p; `symmetric`: also with prediction and label exchanged (Wang et al. 2019); `generalised`:
    (1 - p^q) / q (Zhang and Sabuncu 2018). Masks are trained on by cross entropy."""
    symmetric_alpha: Annotated[float, Field(ge=0), _read_with_loss("symmetric")] = 0.1
    """symmetric: weight of the cross entropy; 0.1 as published for CIFAR-10."""
    symmetric_beta: Annotated[float, Field(gt=0), _read_with_loss("symmetric")] = 1.0
    """symmetric: weight of the reverse cross entropy; 1 as published for CIFAR-10."""
    symmetric_log_zero: Annotated[float, Field(lt=0), _read_with_loss("symmetric")] = -4.0
    """symmetric: what the logarithm of 0 is set to."""
    generalised_exponent: Annotated[float, Field(gt=0, le=1), _read_with_loss("generalised")] = 0.7
    """generalised: the exponent q; near 0 it is cross entropy, 1 is the mean absolute error; 0.7 as published."""

    def pixel_cost(self, *, ignore_index: int) -> PixelCost | None:
        """The loss of a pixel of the pseudo labels, if it is not cross entropy; 0 where the label is `ignore_index`."""
        from wsss.losses.generalised_cross_entropy import generalised_cross_entropy
        from wsss.losses.symmetric_cross_entropy import symmetric_cross_entropy

        if self.supervision() == "full" or self.pixel_loss == "cross_entropy":
            return None
        if self.pixel_loss == "generalised":
            loss = partial(generalised_cross_entropy, exponent=self.generalised_exponent)
        else:
            loss = partial(
                symmetric_cross_entropy,
                alpha=self.symmetric_alpha,
                beta=self.symmetric_beta,
                log_zero=self.symmetric_log_zero,
            )
        return lambda logits_BCHW, label_BHW: loss(logits_BCHW, label_BHW=label_BHW, ignore_index=ignore_index)


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
        from wsss.tasks.semi_supervised import SemiSupervisedTask

        training, ignored, task = self.training, label_type(len(instance.taxonomy)).ignore, self.label_task(instance)
        if training.supervision() != "semi":
            return task
        weight = resolved(training, "full_weight")
        return SemiSupervisedTask(task, full_weight=weight, per_image=False, ignore_index=ignored)

    def label_task(self, instance: Instance) -> SegmentationTask:
        """The loss on the pseudo labels."""
        from wsss.tasks.segmentation import CROSS_ENTROPY, SegmentationTask

        ignored = label_type(len(instance.taxonomy)).ignore
        cost = self.settings.pixel_cost(ignore_index=ignored)
        return SegmentationTask(
            self.starting_network(instance),
            synchronise_norms=self.training.synchronise_norms,
            ignore_index=ignored,
            cost=cost,
            name=CROSS_ENTROPY if cost is None else self.settings.pixel_loss,
        )

    def training_set(self, instance: Instance) -> TrainingSet:
        training = self.training
        if training.supervision() == "image":
            return self.pseudo_labelled(instance, full=frozenset())
        full = training.full_keys(instance)
        if training.supervision() == "full":
            return training.masked_images(instance, full, name="label")
        masked = training.masked_images(instance, full, name="mask")
        return training.mixed(instance, masked, self.pseudo_labelled(instance, full=full))

    def pseudo_labelled(self, instance: Instance, *, full: frozenset[str]) -> SegmenterImages:
        """The images without masks."""
        training = self.training
        records = training.joined(
            instance,
            ("samples", "pseudo_labels"),
            lanes=training.lanes(masked=False),
            keep=lambda key: key not in full,
        )
        return self.images()(
            training,
            records,
            seed=instance.seed,
            num_classes=len(instance.taxonomy) + 1,
            confidence_threshold=self.settings.confidence_threshold,
            confidence_power=self.settings.confidence_power,
        )

    def images(self) -> Callable[..., SegmenterImages]:
        """The class of the images without masks."""
        from wsss.stages.segmenter.images import PseudoLabelledImages

        return PseudoLabelledImages
