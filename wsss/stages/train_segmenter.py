"""train_segmenter: pseudo labels -> a segmentation network that needs no labels at all.

In place of pseudo labels it learns the predictions of an earlier segmenter where a recipe names them (self-training).

Shape letters: `H W` pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import nn

from shards.records import ConfidentLabel, SeedRecord
from wsss.augment import Augmentation, SizeRange
from wsss.examples import JoinedRecords
from wsss.images import fill_colour, to_tensor
from wsss.settings import read_unless, read_with, settings
from wsss.stages.augmented_records import AugmentedRecords
from wsss.stages.dsrg_settings import DsrgSettings
from wsss.stages.encoder_settings import EncoderSource
from wsss.stages.fit import Draw, TrainingSet, Validation
from wsss.stages.predict import Predict
from wsss.stages.segmenter_validation import SegmenterValidation
from wsss.stages.stage import Instance, Outcome
from wsss.tasks.dsrg import GRID, DsrgTask, grid_colours, grid_labels
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import Task

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter


_TRAIN = "train"


@settings
class TrainSegmenter(DsrgSettings, SegmenterValidation, EncoderSource):
    """Train DeepLabv3+ or an earlier DeepLab by cross entropy on pseudo labels, or from seeds that grow meanwhile."""

    kind: ClassVar[str] = "train_segmenter"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "pseudo_labels": ("make_pseudo_labels", "predict"),
        "seeds": ("make_seeds",),
        "classifier": ("train_classifier",),
    }
    # A second segmenter beside a first one must not turn into its pupil because predictions stand between the two.
    named_kinds: ClassVar[frozenset[str]] = frozenset({"predict"})

    objective: Annotated[Literal["cross_entropy", "dsrg"], read_unless("objective", "cross_entropy")] = "cross_entropy"
    """`cross_entropy`: on the pixels of pseudo labels; `dsrg`: on seeds that grow, and a dense CRF's result."""
    network: Annotated[Literal["deeplabv3plus", "largefov", "aspp"], read_unless("network", "deeplabv3plus")] = (
        "deeplabv3plus"
    )
    """`largefov`, `aspp`: DeepLab's earlier heads, at output stride 8, as DSRG and FickleNet have them on VGG16."""
    decoder_channels: Annotated[int, Field(ge=8), read_with("network", "deeplabv3plus")] = 256
    """deeplabv3plus: channels of the ASPP branches and the decoder."""
    crop_size: Annotated[int, Field(ge=32)] = 352
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (256, 704)
    """Range of the longer side before cropping."""
    augmentation: Annotated[Literal["weak", "strong"], read_unless("augmentation", "weak")] = "weak"
    """`weak`: scale, mirror image, crop and colours; `strong`: also rotation, elastic deformation, noise, changes of
    tone and sharpness (NoPeopleAllowed's list)."""
    colour_jitter: Annotated[float, Field(ge=0, le=1), read_with("augmentation", "weak")] = 0.2
    """weak: strength of random colour changes."""
    confidence_threshold: Annotated[float, Field(ge=0, lt=1), read_with("objective", "cross_entropy")] = 0.0
    """Pixels of the pseudo labels, or predictions, less confident than this are ignored."""
    confidence_power: Annotated[
        float, Field(ge=0), read_with("objective", "cross_entropy"), read_unless("confidence_power", 0.0)
    ] = 0.0
    """A pixel weighs its pseudo label's confidence, in [0, 1], to this power; 0 weighs all alike."""

    def used_slots(self) -> tuple[str, ...]:
        unused = "seeds" if self.objective == "cross_entropy" else "pseudo_labels"
        return tuple(slot for slot in super().used_slots() if slot != unused)

    def check(self, instance: Instance) -> None:
        super().check(instance)
        if self.network != "deeplabv3plus" and self.output_stride != 8:
            raise ValueError(
                f"{instance.name}.output_stride = {self.output_stride}: network = {self.network!r} is made for maps of "
                "stride 8; set output_stride = 8"
            )
        if self.objective == "dsrg" and self.crop_size % GRID:
            raise ValueError(
                f"{instance.name}.crop_size = {self.crop_size}: objective = 'dsrg' looks at a grid of stride {GRID}; "
                f"set {self.crop_size // GRID * GRID} or {(self.crop_size // GRID + 1) * GRID}"
            )
        labels = instance.inputs.get("pseudo_labels")
        # Left to itself, predict makes val alone. Pseudo labels of val alone are what sweeps ask a whole recipe for.
        if labels is not None and isinstance(labels.stage, Predict) and _TRAIN not in labels.stage.splits:
            raise ValueError(
                f"{instance.name} trains on the split {_TRAIN!r}, which {labels.name} does not make; set "
                f'{labels.name}.splits = ["{_TRAIN}"], or name another instance as inputs.pseudo_labels'
            )
        splits = instance.samples.stage.splits  # type: ignore[attr-defined]
        if self.validate_every and self.validation_split not in splits:
            raise ValueError(
                f"{instance.name}.validation_split = {self.validation_split!r}; "
                f"{instance.samples.name} has {', '.join(splits)}"
            )

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        from wsss.models.deeplab_heads import ASPP_RATES, LARGE_FOV_RATES, build_deeplab
        from wsss.models.norm import freeze_batch_norm
        from wsss.models.segmenter import build_segmenter

        spec, num_classes = self.encoder_spec(pretrained=False), len(instance.taxonomy) + 1
        encoder = self.first_encoder(instance, pretrained=pretrained)
        network: Segmenter | DeepLab
        if self.network == "deeplabv3plus":
            network = build_segmenter(
                spec, encoder=encoder, num_classes=num_classes, decoder_channels=self.decoder_channels
            )
        else:
            rates = LARGE_FOV_RATES if self.network == "largefov" else ASPP_RATES
            network = build_deeplab(spec, encoder=encoder, num_classes=num_classes, rates=rates)
        if self.norm == "frozen":
            freeze_batch_norm(network.encoder)
        return network

    def task(self, instance: Instance) -> Task:
        network = cast("Segmenter | DeepLab", self.model(instance, pretrained=True))
        # A decoder starts at random, so its norms are never frozen; over several ranks they are synchronised.
        synchronise_norms = self.norm != "batch"
        if self.objective == "cross_entropy":
            return SegmentationTask(network, synchronise_norms=synchronise_norms)
        return DsrgTask(
            network,
            crf=self.crf_in_the_loop(),
            foreground_threshold=self.growing_foreground_threshold,
            background_threshold=self.growing_background_threshold,
            synchronise_norms=synchronise_norms,
        )

    def training_set(self, instance: Instance) -> TrainingSet:
        if self.validate_every:
            self.require_validation_masks(instance)
        layers = {slot: instance.inputs[slot].layer for slot in self.used_slots() if slot != "classifier"}
        records = JoinedRecords(layers, split=_TRAIN, seed=instance.seed)
        if self.objective == "cross_entropy":
            return _PseudoLabelledImages(self, records, seed=instance.seed)
        return _SeededImages(self, records, seed=instance.seed, num_classes=len(instance.taxonomy) + 1)

    def validate(self, network: Segmenter, instance: Instance) -> Validation:
        """Mean IoU on the validation split; `keep = "best"` goes by it, not by the loss on pseudo labels."""
        return self.mean_iou(network, instance)

    def finish(self, network: Segmenter, instance: Instance) -> Outcome:
        """The last validation; nothing without `validate_every`: `predict` and `evaluate` measure more exactly."""
        return self.validate(network, instance).outcome if self.validate_every else Outcome()


class _AugmentedImages(AugmentedRecords):
    """Images augmented by the stage's settings."""

    def __init__(self, stage: TrainSegmenter, records: JoinedRecords, *, seed: int) -> None:
        augmentation = Augmentation(
            crop_size=stage.crop_size,
            resize_long=stage.resize_long,
            colour_jitter=stage.colour_jitter,
            fill=fill_colour(stage.mean),
            strong=stage.augmentation == "strong",
        )
        super().__init__(records, augmentation, seed=seed)
        self._stage = stage


class _PseudoLabelledImages(_AugmentedImages):
    """Augmented images with pseudo labels."""

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        labels = cast(ConfidentLabel, self.records.record(draw.index, "pseudo_labels"))
        mask, power = labels.confident_mask(self._stage.confidence_threshold), self._stage.confidence_power
        planes = np.stack([mask, labels.pixel_confidence], axis=2) if power else mask
        image, changed = self.augmented(draw, sample, mask_HW=planes)
        assert changed is not None
        label_HW = torch.from_numpy((changed[..., 0] if power else changed).astype(np.int64))
        image_3HW = to_tensor(image, mean=self._stage.mean, std=self._stage.std)
        example = {"key": sample.key, "image": image_3HW, "label": label_HW}
        if power:
            example["weight"] = torch.from_numpy((changed[..., 1] / 255).astype(np.float32) ** power)
        return example


class _SeededImages(_AugmentedImages):
    """Augmented images with seeds and colours on the grid, and the classes present."""

    def __init__(self, stage: TrainSegmenter, records: JoinedRecords, *, seed: int, num_classes: int) -> None:
        super().__init__(stage, records, seed=seed)
        self._num_classes = num_classes

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        seeds = cast(SeedRecord, self.records.record(draw.index, "seeds"))
        image, label = self.augmented(draw, sample, mask_HW=seeds.label)
        assert label is not None
        present_C = torch.zeros(self._num_classes, dtype=torch.bool)
        present_C[[0, *sample.classes]] = True
        return {
            "key": sample.key,
            "image": to_tensor(image, mean=self._stage.mean, std=self._stage.std),
            "seeds": grid_labels(label),
            "present": present_C,
            "pixels": grid_colours(image),
        }
