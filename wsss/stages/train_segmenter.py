"""train_segmenter: from pseudo labels, seeds, boxes or masks, a segmentation network that needs only images.

If a recipe names an earlier segmenter's predictions as input, it trains on them instead of pseudo labels
(self-training).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from shards.records import Sample
from wsss.contract.cost import FitWork, PlanContext
from wsss.contract.fit import TrainingSet, Validation
from wsss.contract.settings import active_unless, settings
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Outcome
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.objectives.cross_entropy import CrossEntropy
from wsss.stages.objectives.dsrg import Dsrg
from wsss.stages.objectives.mean_teacher import MeanTeacher, MeanTeacherSettings
from wsss.stages.objectives.objective import Objective
from wsss.stages.objectives.sec import Sec, SecSettings
from wsss.stages.objectives.self_correction import SelfCorrection, SelfCorrectionSettings

if TYPE_CHECKING:
    from torch import nn

    from wsss.tasks.task import Task

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "dsrg": Dsrg,
    "sec": Sec,
    "self_correction": SelfCorrection,
    "mean_teacher": MeanTeacher,
}
"""Value of the setting `objective` -> its class."""
_SHARED_SLOTS: dict[str, Slot] = {"samples": Records((Sample,)), "classifier": Trained(ClassifierTraining)}


@settings
class TrainSegmenter(MeanTeacherSettings, SecSettings, SelfCorrectionSettings):
    """Train DeepLabv3+ or an earlier DeepLab, by one of several objectives, with masks of none, some or all images.

    | objective | full_share = 0 | between 0 and 1 | 1 |
    |---|---|---|---|
    | `cross_entropy` | on pseudo labels | pseudo labels and masks | full supervision |
    | `dsrg` | from growing seeds | FickleNet's semi-supervised loss | - |
    | `sec` | from seeds and labels | the same, and masks | - |
    | `self_correction` | - | boxes and masks | - |
    | `mean_teacher` | on pseudo labels and a teacher's | - | - |
    """

    kind: ClassVar[str] = "train_segmenter"
    revision: ClassVar[int] = 3
    slots: ClassVar[dict[str, Slot]] = {
        **_SHARED_SLOTS,
        **{name: slot for objective in OBJECTIVES.values() for name, slot in objective.slots.items()},
    }

    objective: Annotated[
        Literal["cross_entropy", "dsrg", "sec", "self_correction", "mean_teacher"],
        active_unless("objective", "cross_entropy"),
    ] = "cross_entropy"
    """`cross_entropy`: pixels of pseudo labels or masks; `dsrg`: growing seeds and the output of a dense CRF; `sec`:
    seeds, expansion of the classes present, and the output of a dense CRF (seed, expand and constrain);
    `self_correction`: masks of some images, and soft labels that an ancillary model makes from the boxes of the
    others; `mean_teacher`: pixels of pseudo labels, and what a moving average of the network predicts."""

    def chosen(self) -> Objective:
        """The objective that these settings choose."""
        return OBJECTIVES[self.objective](self)

    def reads_boxes(self) -> bool:
        return self.chosen().reads_boxes()

    def used_slots(self) -> tuple[str, ...]:
        used = {*_SHARED_SLOTS, *self.chosen().used_slots()}
        return tuple(slot for slot in super().used_slots() if slot in used)

    def check(self, instance: Instance) -> None:
        super().check(instance)
        self.check_validation_split(instance)
        self.check_mixture(instance)
        self.chosen().check(instance)

    def check_environment(self, instance: Instance) -> None:
        super().check_environment(instance)
        self.chosen().check_environment(instance)

    def cost(self, instance: Instance, context: PlanContext) -> FitWork:
        """Crops of all images; if only some have masks, an epoch is one pass over the others."""
        from wsss.stages.segmenter.cost import segmenter_work

        frozen = tuple(slot for slot in ("ancillary",) if slot in instance.inputs)
        images = context.train_images(max_shards=self.max_shards)
        examples = self.planned_masks(images) if self.full_share else images
        if self.supervision() == "semi" and examples is not None:
            share = self.batch_size / (
                self.batch_size - self.full_per_batch
            )  # of a batch's images to those without masks
            examples = round((images - examples) * share)
        chosen = self.chosen()
        work = segmenter_work(self, context, examples=examples, arrays=chosen.loss_units(instance), frozen=frozen)
        return chosen.with_all_passes(work)

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        return self.chosen().network(instance, pretrained=pretrained)

    def task(self, instance: Instance) -> Task:
        return self.chosen().task(instance)

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.chosen().on_device(super().on_device(batch))

    def training_set(self, instance: Instance) -> TrainingSet:
        if self.validate_every:
            self.require_validation_masks(instance)
        return self.chosen().training_set(instance)

    def validate(self, network: Any, instance: Instance) -> Validation:
        """Mean IoU on the validation split; `keep = "best"` compares it, not the loss on pseudo labels."""
        return self.mean_iou(network, instance)

    def finish(self, network: Any, instance: Instance) -> Outcome:
        """The last validation; without `validate_every` nothing: `predict` and `evaluate` measure more exactly."""
        return self.validate(network, instance).outcome if self.validate_every else Outcome()
