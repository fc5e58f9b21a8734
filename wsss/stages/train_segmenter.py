"""train_segmenter: pseudo labels -> a segmentation network that needs no labels at all.

Shape letters: `H W` pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import nn

from shards.records import PseudoLabel
from wsss.augment import Augmentation, SizeRange
from wsss.examples import JoinedRecords
from wsss.images import fill_colour, to_tensor
from wsss.settings import read_unless, read_with, settings
from wsss.stages.augmented_records import AugmentedRecords
from wsss.stages.encoder_settings import EncoderSource
from wsss.stages.fit import Draw, TrainingSet, Validation
from wsss.stages.segmenter_validation import SegmenterValidation
from wsss.stages.stage import Instance, Outcome
from wsss.tasks.segmentation import SegmentationTask
from wsss.tasks.task import Task

if TYPE_CHECKING:
    from wsss.models.segmenter import Segmenter


@settings
class TrainSegmenter(SegmenterValidation, EncoderSource):
    """Train DeepLabv3+ by cross entropy on pseudo labels."""

    kind: ClassVar[str] = "train_segmenter"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "pseudo_labels": ("make_pseudo_labels",),
        "classifier": ("train_classifier",),
    }

    decoder_channels: Annotated[int, Field(ge=8)] = 256
    """Channels of the ASPP branches and the decoder."""
    crop_size: Annotated[int, Field(ge=32)] = 352
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (256, 704)
    """Range of the longer side before cropping."""
    augmentation: Annotated[Literal["weak", "strong"], read_unless("augmentation", "weak")] = "weak"
    """`weak`: scale, mirror image, crop and colours; `strong`: also rotation, elastic deformation, noise, changes of
    tone and sharpness (NoPeopleAllowed's list)."""
    colour_jitter: Annotated[float, Field(ge=0, le=1), read_with("augmentation", "weak")] = 0.2
    """weak: strength of random colour changes."""
    confidence_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Pixels of the pseudo labels less confident than this are ignored."""
    confidence_power: Annotated[float, Field(ge=0), read_unless("confidence_power", 0.0)] = 0.0
    """A pixel weighs its pseudo label's confidence, in [0, 1], to this power; 0 weighs all alike."""

    def check(self, instance: Instance) -> None:
        super().check(instance)
        splits = instance.samples.stage.splits  # type: ignore[attr-defined]
        if self.validate_every and self.validation_split not in splits:
            raise ValueError(
                f"{instance.name}.validation_split = {self.validation_split!r}; "
                f"{instance.samples.name} has {', '.join(splits)}"
            )

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        from wsss.models.norm import freeze_batch_norm
        from wsss.models.segmenter import build_segmenter

        network = build_segmenter(
            self.encoder_spec(pretrained=False),
            encoder=self.first_encoder(instance, pretrained=pretrained),
            num_classes=len(instance.taxonomy) + 1,
            decoder_channels=self.decoder_channels,
        )
        if self.norm == "frozen":
            freeze_batch_norm(network.encoder)
        return network

    def task(self, instance: Instance) -> Task:
        network = cast("Segmenter", self.model(instance, pretrained=True))
        # A decoder starts at random, so its norms are never frozen; over several ranks they are synchronised.
        return SegmentationTask(network, synchronise_norms=self.norm != "batch")

    def training_set(self, instance: Instance) -> TrainingSet:
        if self.validate_every:
            self.require_validation_masks(instance)
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "pseudo_labels")}
        return _PseudoLabelledImages(self, JoinedRecords(layers, split="train", seed=instance.seed), seed=instance.seed)

    def validate(self, network: Segmenter, instance: Instance) -> Validation:
        """Mean IoU on the validation split; `keep = "best"` goes by it, not by the loss on pseudo labels."""
        return self.mean_iou(network, instance)

    def finish(self, network: Segmenter, instance: Instance) -> Outcome:
        """The last validation; nothing without `validate_every`: `predict` and `evaluate` measure more exactly."""
        return self.validate(network, instance).outcome if self.validate_every else Outcome()


class _PseudoLabelledImages(AugmentedRecords):
    """Augmented images with pseudo labels."""

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

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        labels = cast(PseudoLabel, self.records.record(draw.index, "pseudo_labels"))
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
