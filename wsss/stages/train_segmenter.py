"""train_segmenter: pseudo labels, seeds, boxes or masks -> a segmentation network that needs no labels at all.

In place of pseudo labels it learns the predictions of an earlier segmenter where a recipe names them (self-training).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field
from torch import nn

from wsss.contract.fit import TrainingSet, Validation, load_trained
from wsss.contract.settings import ReadIf, read_unless, settings
from wsss.contract.stage import Instance, Outcome
from wsss.stages.predict import Predict
from wsss.stages.segmenter.dsrg_settings import DsrgSettings
from wsss.stages.segmenter.full_set import TRAIN, MixedBatches
from wsss.stages.segmenter.images import (
    FramedImages,
    MaskedImages,
    MixedImages,
    PseudoLabelledImages,
    SeededImages,
    SegmenterImages,
)
from wsss.stages.segmenter.self_correction_settings import SELF_CORRECTION, SelfCorrectionSettings
from wsss.stages.segmenter.training import SegmenterTraining
from wsss.stages.segmenter.validation import SegmenterValidation
from wsss.tasks.dsrg import GRID, DsrgTask
from wsss.tasks.segmentation import SegmentationTask, SegmenterTask
from wsss.tasks.self_correction import SelfCorrectionTask
from wsss.tasks.semi_supervised import SemiSupervisedTask
from wsss.tasks.task import Task

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

_ON_PSEUDO_LABELS = ReadIf(
    "objective = 'cross_entropy' and full_share below 1",
    lambda stage: stage.objective == "cross_entropy" and stage.supervision() != "full",
)


@settings
class TrainSegmenter(DsrgSettings, SelfCorrectionSettings, MixedBatches, SegmenterValidation, SegmenterTraining):
    """Train DeepLabv3+ or an earlier DeepLab, by one of several objectives, with masks of none, some or all images.

    | objective | full_share = 0 | between 0 and 1 | 1 |
    |---|---|---|---|
    | `cross_entropy` | on pseudo labels | pseudo labels and masks | full supervision |
    | `dsrg` | from growing seeds | FickleNet's semi-supervised loss | - |
    | `self_correction` | - | boxes and masks | - |
    """

    kind: ClassVar[str] = "train_segmenter"
    revision: ClassVar[int] = 2
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "pseudo_labels": ("make_pseudo_labels", "predict"),
        "seeds": ("make_seeds",),
        "cams": ("make_cams", "make_segmenter_maps"),
        "ancillary": ("train_ancillary",),
        "correction": ("train_correction",),
        "classifier": ("train_classifier",),
    }
    # A second segmenter beside a first one must not turn into its pupil because predictions stand between the two.
    named_kinds: ClassVar[frozenset[str]] = frozenset({"predict"})

    objective: Annotated[
        Literal["cross_entropy", "dsrg", "self_correction"], read_unless("objective", "cross_entropy")
    ] = "cross_entropy"
    """`cross_entropy`: on the pixels of pseudo labels, or of masks; `dsrg`: on seeds that grow, and a dense CRF's
    result; `self_correction`: on masks of some images, and on what an ancillary model makes of the others' boxes."""
    confidence_threshold: Annotated[float, Field(ge=0, lt=1), _ON_PSEUDO_LABELS] = 0.0
    """Pixels of the pseudo labels, or predictions, less confident than this are ignored."""
    confidence_power: Annotated[float, Field(ge=0), _ON_PSEUDO_LABELS, read_unless("confidence_power", 0.0)] = 0.0
    """A pixel weighs its pseudo label's confidence, in [0, 1], to this power; 0 weighs all alike."""

    def reads_boxes(self) -> bool:
        return self.objective == SELF_CORRECTION

    def used_slots(self) -> tuple[str, ...]:
        unused = self.unused_slots()
        if self.objective != "dsrg":
            unused.add("seeds")
        if self.objective != "cross_entropy" or self.supervision() == "full":
            unused.add("pseudo_labels")
        return tuple(slot for slot in super().used_slots() if slot not in unused)

    def check(self, instance: Instance) -> None:
        super().check(instance)
        self.check_validation_split(instance)
        self.check_mixture(instance)
        supervision = self.supervision()
        if self.objective == "dsrg" and supervision == "full":
            raise ValueError(
                f"{instance.name}.full_share = 1 leaves objective = 'dsrg' no image without a mask; set a smaller "
                "share, or objective = 'cross_entropy'"
            )
        if self.objective == "dsrg" and self.crop_size % GRID:
            raise ValueError(
                f"{instance.name}.crop_size = {self.crop_size}: objective = 'dsrg' looks at a grid of stride {GRID}; "
                f"set {self.crop_size // GRID * GRID} or {(self.crop_size // GRID + 1) * GRID}"
            )
        if self.objective == SELF_CORRECTION:
            self._check_self_correction(instance)
        labels = instance.inputs.get("pseudo_labels")
        # Left to itself, predict makes val alone. Pseudo labels of val alone are what sweeps ask a whole recipe for.
        if labels is not None and isinstance(labels.stage, Predict) and TRAIN not in labels.stage.splits:
            raise ValueError(
                f"{instance.name} trains on the split {TRAIN!r}, which {labels.name} does not make; set "
                f'{labels.name}.splits = ["{TRAIN}"], or name another instance as inputs.pseudo_labels'
            )

    def _check_self_correction(self, instance: Instance) -> None:
        if self.supervision() != "semi":
            raise ValueError(
                f"{instance.name}.full_share = {self.full_share}: objective = {SELF_CORRECTION!r} needs masks of some "
                "images and boxes of others; set a share between 0 and 1, as its ancillary model has it"
            )
        if self.zero_stage == 3 and self.self_correction != "em_fixed":
            raise ValueError(
                f"{instance.name}.zero_stage = 3: the frozen ancillary model is whole on every rank; set at most 2"
            )
        self.check_self_correction(instance)
        if self.self_correction == "conv":
            self.require_same_architecture(instance, instance.inputs["correction"])

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        goes_on = pretrained and "correction" in instance.inputs
        network = self.segmenter(instance, pretrained=pretrained and not goes_on)
        if goes_on:
            network.load_state_dict(load_trained(instance.inputs["correction"]).primary.state_dict())
        return network

    def task(self, instance: Instance) -> Task:
        network = cast("Segmenter | DeepLab", self.model(instance, pretrained=True))
        if self.objective == SELF_CORRECTION:
            return SelfCorrectionTask(
                network,
                self.targets(instance),
                full_weight=self.full_weight,
                synchronise_norms=self.synchronise_norms,
            )
        task: SegmenterTask = SegmentationTask(network, synchronise_norms=self.synchronise_norms)
        if self.objective == "dsrg":
            task = DsrgTask(
                network,
                crf=self.crf_in_the_loop(),
                foreground_threshold=self.growing_foreground_threshold,
                background_threshold=self.growing_background_threshold,
                synchronise_norms=self.synchronise_norms,
            )
        return SemiSupervisedTask(task, full_weight=self.full_weight) if self.supervision() == "semi" else task

    def training_set(self, instance: Instance) -> TrainingSet:
        if self.validate_every:
            self.require_validation_masks(instance)
        if not self.full_share:
            return self._weak_images(instance, full=frozenset())
        full = self.full_keys(instance)
        if self.supervision() == "full":
            return self._masked_images(instance, full, name="label")
        if self.objective == SELF_CORRECTION:
            masked, others = self._for_self_correction(instance, full)
        else:
            masked, others = self._masked_images(instance, full, name="mask"), self._weak_images(instance, full=full)
        if not len(others):
            raise ValueError(
                f"{instance.name}.full_share = {self.full_share} leaves no training image to learn from weaker labels; "
                "set a smaller share"
            )
        return MixedImages(masked, others, full_per_batch=self.full_per_batch, batch_size=self.batch_size)

    def _lanes(self, *, masked: bool) -> int:
        """Examples of one kind in a batch."""
        if self.supervision() != "semi":
            return self.batch_size
        return self.full_per_batch if masked else self.batch_size - self.full_per_batch

    def _for_self_correction(self, instance: Instance, full: frozenset[str]) -> tuple[SegmenterImages, SegmenterImages]:
        """Images with masks, with boxes too where the correction learns from both; and images with boxes."""
        others = self._framed_images(instance, full, masked=False)
        if self.self_correction != "conv":
            return self._masked_images(instance, full, name="label"), others
        masked = self._framed_images(instance, full, masked=True)
        self.require_framed(instance, len(masked))
        return masked, others

    def _masked_images(self, instance: Instance, full: frozenset[str], *, name: str) -> SegmenterImages:
        records = self.joined(instance, ["samples"], lanes=self._lanes(masked=True), keep=full.__contains__)
        return MaskedImages(self, records, seed=instance.seed, num_classes=len(instance.taxonomy) + 1, name=name)

    def _weak_images(self, instance: Instance, *, full: frozenset[str]) -> SegmenterImages:
        slots = ("samples", "pseudo_labels" if self.objective == "cross_entropy" else "seeds")
        records = self.joined(instance, slots, lanes=self._lanes(masked=False), keep=lambda key: key not in full)
        num_classes = len(instance.taxonomy) + 1
        if self.objective == "dsrg":
            return SeededImages(self, records, seed=instance.seed, num_classes=num_classes)
        return PseudoLabelledImages(
            self,
            records,
            seed=instance.seed,
            num_classes=num_classes,
            confidence_threshold=self.confidence_threshold,
            confidence_power=self.confidence_power,
        )

    def _framed_images(self, instance: Instance, full: frozenset[str], *, masked: bool) -> SegmenterImages:
        slots = [slot for slot in ("samples", "cams") if slot in instance.inputs]
        framed = self.with_boxes(instance)

        def keep(key: str) -> bool:
            return (key in full) == masked and (framed is None or key in framed)

        records = self.joined(instance, slots, lanes=self._lanes(masked=masked), keep=keep)
        return FramedImages(
            self, records, seed=instance.seed, num_classes=len(instance.taxonomy) + 1, boxes=self, masked=masked
        )

    def validate(self, network: Segmenter, instance: Instance) -> Validation:
        """Mean IoU on the validation split; `keep = "best"` goes by it, not by the loss on pseudo labels."""
        return self.mean_iou(network, instance)

    def finish(self, network: Segmenter, instance: Instance) -> Outcome:
        """The last validation; nothing without `validate_every`: `predict` and `evaluate` measure more exactly."""
        return self.validate(network, instance).outcome if self.validate_every else Outcome()
