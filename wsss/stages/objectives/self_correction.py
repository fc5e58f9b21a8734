"""self_correction: trains on masks of some images, and on soft labels that an ancillary model makes from the boxes of
the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from shards.label_type import label_type
from shards.records import CamRecord
from wsss.contract.fit import TrainingSet, load_trained
from wsss.contract.settings import ActiveIf, active_with, resolved, settings
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance
from wsss.stages.objectives.objective import Objective
from wsss.stages.segmenter.box_source import BoxSource, require_same_boxes
from wsss.stages.segmenter.boxed_training import AncillaryTraining, CorrectionTraining
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.stages.segmenter.training import require_same_colours

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter
    from wsss.stages.segmenter.images import SegmenterImages
    from wsss.tasks.self_correction import Targets
    from wsss.tasks.task import Task

SELF_CORRECTION = "self_correction"
_CHOSEN = active_with("objective", SELF_CORRECTION)


def _read_with_variant(*variants: str) -> ActiveIf:
    names = " or ".join(repr(variant) for variant in variants)
    return ActiveIf(
        f"objective = {SELF_CORRECTION!r} and self_correction = {names}",
        lambda stage: stage.objective == SELF_CORRECTION and stage.self_correction in variants,
    )


_Bias = Annotated[float, Field(gt=0), _read_with_variant("em_fixed")]
_Alpha = Annotated[float, Field(gt=0), _read_with_variant("linear")]


@settings
class SelfCorrectionSettings(BoxSource, ImageSegmenterTraining):
    """How the soft labels of the images without masks are made."""

    box_source: Annotated[Literal["annotated", "masks", "cams"], _CHOSEN] = "annotated"
    """self_correction: source of the boxes: `annotated`, the samples' boxes (build_shards.boxes); `masks`, bounding
    boxes of the components of masks; `cams`, bounding boxes of the components of activation maps. Must be the ancillary
    model's."""
    box_threshold: Annotated[float, Field(gt=0, lt=1), _CHOSEN, active_with("box_source", "cams")] = 0.25
    """self_correction, cams: boxes are drawn around connected components of pixels whose score is above this."""
    self_correction: Annotated[Literal["none", "linear", "conv", "em_fixed"], _CHOSEN] = "linear"
    """How soft labels are made: `none`, by the ancillary model alone; `linear`, by averaging its logits with those of
    the network itself, with a weight that decreases; `conv`, by combining both with a small network; `em_fixed`, the
    network's own best class given the boxes (a baseline without an ancillary model)."""
    first_alpha: _Alpha = 30.0
    """linear: weight of the ancillary model's logits at the first step; decreases exponentially."""
    last_alpha: _Alpha = 0.5
    """linear: weight of the ancillary model's logits at the last step."""
    em_foreground_bias: _Bias = 5.0
    """em_fixed: constant added to the logits of classes inside their boxes."""
    em_background_bias: _Bias = 3.0
    """em_fixed: constant added to the background's logits."""


class SelfCorrection(Objective):
    """Self-correcting networks: masks of some images, and soft labels made from the boxes of the others.

    Source: Ibrahim et al., CVPR 2020. em_fixed: Papandreou et al., ICCV 2015.
    """

    slots: ClassVar[dict[str, Slot]] = {
        "cams": Records((CamRecord,)),
        "ancillary": Trained(AncillaryTraining),
        "correction": Trained(CorrectionTraining),
    }

    def __init__(self, training: SelfCorrectionSettings) -> None:
        super().__init__(training)
        self.settings = training

    def used_slots(self) -> frozenset[str]:
        used = set() if self.settings.self_correction == "em_fixed" else {"ancillary"}
        if self.settings.self_correction == "conv":
            used.add("correction")
        if self.settings.box_source == "cams":
            used.add("cams")
        return frozenset(used)

    def reads_boxes(self) -> bool:
        return True

    def check(self, instance: Instance) -> None:
        training, given = self.training, self.settings
        if training.supervision() != "semi":
            raise ValueError(
                f"{instance.name}.full_share = {training.full_share}: objective = {SELF_CORRECTION!r} needs masks of "
                "some images and boxes of others; set a share between 0 and 1, the same as its ancillary model's"
            )
        if training.zero_stage == 3 and given.self_correction != "em_fixed":
            raise ValueError(
                f"{instance.name}.zero_stage = 3: the frozen ancillary model is not sharded; set zero_stage = 2 or less"
            )
        given.check_boxes(instance)
        if given.self_correction == "em_fixed" and given.em_foreground_bias <= given.em_background_bias:
            raise ValueError(
                f"{instance.name}.em_foreground_bias = {given.em_foreground_bias} must be above "
                f"em_background_bias = {given.em_background_bias}"
            )
        for slot in ("ancillary", "correction"):
            if slot in instance.inputs:
                require_same_boxes(given, instance, instance.inputs[slot])
                require_same_colours(instance, instance.inputs[slot])
        if given.self_correction == "conv":
            self._check_correction(instance)

    def _check_correction(self, instance: Instance) -> None:
        correction, own = instance.inputs["correction"], instance.inputs["ancillary"]
        its = correction.inputs["ancillary"]
        if its.fingerprint != own.fingerprint:
            raise ValueError(
                f"{instance.name} reads {own.name}, but its correction {correction.name} was trained with "
                f"{its.name}; name the same ancillary model under the inputs of both"
            )
        self.training.require_same_architecture(instance, correction)

    def network(self, instance: Instance, *, pretrained: bool) -> Segmenter | DeepLab:
        resumes = pretrained and "correction" in instance.inputs
        network = self.training.segmenter(instance, pretrained=pretrained and not resumes)
        if resumes:
            network.load_state_dict(load_trained(instance.inputs["correction"]).primary.state_dict())
        return network

    def task(self, instance: Instance) -> Task:
        from wsss.tasks.self_correction import SelfCorrectionTask

        training = self.training
        return SelfCorrectionTask(
            self.starting_network(instance),
            self._targets(instance),
            full_weight=resolved(training, "full_weight"),
            synchronise_norms=training.synchronise_norms,
            ignore_index=label_type(len(instance.taxonomy)).ignore,
        )

    def _targets(self, instance: Instance) -> Targets:
        """The training targets of the images without masks."""
        from wsss.tasks.self_correction import AncillaryTargets, ConvTargets, EmFixedTargets, LinearTargets

        given = self.settings
        if given.self_correction == "em_fixed":
            return EmFixedTargets(foreground_bias=given.em_foreground_bias, background_bias=given.em_background_bias)
        ancillary = load_trained(instance.inputs["ancillary"])
        if given.self_correction == "none":
            return AncillaryTargets(ancillary)
        if given.self_correction == "linear":
            return LinearTargets(ancillary, first_alpha=given.first_alpha, last_alpha=given.last_alpha)
        return ConvTargets(ancillary, load_trained(instance.inputs["correction"]).corrector)

    def training_set(self, instance: Instance) -> TrainingSet:
        """Images with masks (also with boxes for `conv`), mixed with images that have only boxes."""
        training = self.training
        full = training.full_keys(instance)
        others = self._boxed(instance, full, masked=False)
        if self.settings.self_correction != "conv":
            return training.mixed(instance, training.masked_images(instance, full, name="label"), others)
        masked = self._boxed(instance, full, masked=True)
        self.settings.require_boxes(instance, len(masked))
        return training.mixed(instance, masked, others)

    def _boxed(self, instance: Instance, full: frozenset[str], *, masked: bool) -> SegmenterImages:
        from wsss.stages.segmenter.images import BoxedImages

        training = self.training
        boxed = self.settings.with_boxes(instance)

        def keep(key: str) -> bool:
            return (key in full) == masked and (boxed is None or key in boxed)

        slots = [slot for slot in ("samples", "cams") if slot in instance.inputs]
        records = training.joined(instance, slots, lanes=training.lanes(masked=masked), keep=keep)
        return BoxedImages(
            training,
            records,
            seed=instance.seed,
            num_classes=len(instance.taxonomy) + 1,
            boxes=self.settings,
            masked=masked,
        )
