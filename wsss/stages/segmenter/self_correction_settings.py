"""The settings of self-correcting networks' objective, for a stage that trains a segmenter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from wsss.contract.fit import load_trained
from wsss.contract.settings import ReadIf, read_with, settings
from wsss.contract.stage import Instance
from wsss.stages.segmenter.box_source import BoxSource

if TYPE_CHECKING:
    from wsss.tasks.self_correction import Targets

SELF_CORRECTION = "self_correction"
_CHOSEN = read_with("objective", SELF_CORRECTION)


def _read_with_variant(*variants: str) -> ReadIf:
    names = " or ".join(repr(variant) for variant in variants)
    return ReadIf(
        f"objective = {SELF_CORRECTION!r} and self_correction = {names}",
        lambda stage: stage.objective == SELF_CORRECTION and stage.self_correction in variants,
    )


_Bias = Annotated[float, Field(gt=0), _read_with_variant("em_fixed")]
_Alpha = Annotated[float, Field(gt=0), _read_with_variant("linear")]


@settings
class SelfCorrectionSettings(BoxSource):
    """Where the images without masks get their soft labels from. For a class with slots `ancillary`, `correction`."""

    box_source: Annotated[Literal["annotated", "masks", "cams"], _CHOSEN] = "annotated"
    """self_correction: `annotated`: the samples' own (build_shards.boxes); `masks`: around the components of masks;
    `cams`: around those of activation maps. As the ancillary model has it."""
    box_threshold: Annotated[float, Field(gt=0, lt=1), _CHOSEN, read_with("box_source", "cams")] = 0.25
    """self_correction, cams: a box frames what is connected above this value of its class's map."""
    self_correction: Annotated[Literal["none", "linear", "conv", "em_fixed"], _CHOSEN] = "linear"
    """`none`: the ancillary model's soft labels as they are; `linear`, `conv`: corrected by the network itself, with a
    weight that falls or by a small network; `em_fixed`: the network's own best class under the boxes, a rival."""
    first_alpha: _Alpha = 30.0
    """linear: weight of the ancillary model's logits at the first step; falls exponentially."""
    last_alpha: _Alpha = 0.5
    """linear: weight of the ancillary model's logits at the last step."""
    em_foreground_bias: _Bias = 5.0
    """em_fixed: what is added to the logits of classes inside their boxes."""
    em_background_bias: _Bias = 3.0
    """em_fixed: what is added to the background's logits."""

    def unused_slots(self) -> set[str]:
        """Slots of this objective that the settings do not read."""
        if getattr(self, "objective", "") != SELF_CORRECTION:
            return {"ancillary", "correction", "cams"}
        unread = {"ancillary"} if self.self_correction == "em_fixed" else set()
        unread |= set() if self.self_correction == "conv" else {"correction"}
        return unread if self.box_source == "cams" else unread | {"cams"}

    def check_self_correction(self, instance: Instance) -> None:
        """Raises: ValueError where settings and inputs do not fit."""
        self.check_boxes(instance)
        if self.self_correction == "em_fixed" and self.em_foreground_bias <= self.em_background_bias:
            raise ValueError(
                f"{instance.name}.em_foreground_bias = {self.em_foreground_bias} must be above "
                f"em_background_bias = {self.em_background_bias}"
            )
        for slot in ("ancillary", "correction"):
            if slot in instance.inputs:
                require_same_boxes(self, instance, instance.inputs[slot])
                require_same_colours(instance, instance.inputs[slot])
        if self.self_correction == "conv":
            told, own = instance.inputs["correction"].inputs["ancillary"], instance.inputs["ancillary"]
            if told.fingerprint != own.fingerprint:
                raise ValueError(
                    f"{instance.name} reads {own.name}, but its correction {instance.inputs['correction'].name} was "
                    f"trained beside {told.name}; name the same under inputs"
                )

    def targets(self, instance: Instance) -> Targets:
        """What the images without masks are trained towards."""
        from wsss.tasks.self_correction import AncillaryTargets, ConvTargets, EmFixedTargets, LinearTargets

        if self.self_correction == "em_fixed":
            return EmFixedTargets(foreground_bias=self.em_foreground_bias, background_bias=self.em_background_bias)
        ancillary = load_trained(instance.inputs["ancillary"])
        if self.self_correction == "none":
            return AncillaryTargets(ancillary)
        if self.self_correction == "linear":
            return LinearTargets(ancillary, first_alpha=self.first_alpha, last_alpha=self.last_alpha)
        return ConvTargets(ancillary, load_trained(instance.inputs["correction"]).corrector)


def require_same_colours(instance: Instance, other: Instance) -> None:
    """Raises: ValueError where `other`, which is shown the same batches, learned other colours, naming both sides."""
    for setting in ("mean", "std"):
        own, its = getattr(instance.stage, setting), getattr(other.stage, setting)
        if own != its:
            raise ValueError(
                f"{instance.name}.{setting} = {own!r}, but {other.name}, which sees the same images, was trained with "
                f"{its!r}; give the same"
            )


def require_same_boxes(stage: BoxSource, instance: Instance, other: Instance) -> None:
    """Raises: ValueError where `other` was trained with boxes of another kind, naming both sides."""
    assert isinstance(other.stage, BoxSource)
    for setting in ("box_source", "box_threshold"):
        own, its = getattr(stage, setting), getattr(other.stage, setting)
        if own != its and (setting == "box_source" or stage.box_source == "cams"):
            raise ValueError(
                f"{instance.name}.{setting} = {own!r}, but {other.name} was told boxes with {its!r}; give the same"
            )
    mine, theirs = (one.inputs.get("cams") for one in (instance, other))
    if mine is not None and theirs is not None and mine.fingerprint != theirs.fingerprint:
        raise ValueError(
            f"{instance.name} frames the maps of {mine.name}, {other.name} those of {theirs.name}; name the same under "
            "inputs"
        )
