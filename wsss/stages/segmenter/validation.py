"""Validation of a segmenter during training: mean IoU on a few images with masks, from one view.

Shape letters: `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from shards.label_type import label_type
from shards.layer import Layer
from shards.records import BadSampleError, Sample
from wsss.contract.fit import Validation
from wsss.contract.settings import ActiveIf, settings
from wsss.contract.stage import Instance, Outcome
from wsss.data.joined_records import JoinedRecords
from wsss.stages.segmenter.training import SegmenterTraining, require_masks
from wsss.stages.settings.trained_sizes import Views, outside_notes

if TYPE_CHECKING:
    import torch

_VALIDATED = ActiveIf("validate_every of 1 or more", lambda stage: stage.validate_every > 0)


@settings
class SegmenterValidation(SegmenterTraining):
    """A training that is validated on the masks of a split. These masks are never trained on."""

    validation_split: Annotated[str, _VALIDATED] = "val"
    """Split on whose masks the mean IoU is measured."""
    validation_images: Annotated[int, Field(ge=0), _VALIDATED] = 200
    """Number of images to validate on, evenly spread over the split; 0 uses all of them."""
    validation_size: Annotated[int, Field(ge=0), _VALIDATED] = 0
    """Longer side to which validation images are resized, in pixels (masks are not resized); 0 does not resize."""

    def reads_masks(self) -> bool:
        return self.validate_every > 0

    def check_validation_split(self, instance: Instance) -> None:
        """Raises: ValueError if the data set has no such split."""
        splits = instance.data.splits
        if self.validate_every and self.validation_split not in splits:
            raise ValueError(
                f"{instance.name}.validation_split = {self.validation_split!r}, but "
                f"{instance.samples.name} has only {', '.join(splits)}"
            )

        if self.validate_every:
            wanted = f"{instance.name}.validate_every = {self.validate_every} measures on masks"
            require_masks(instance, self.validation_split, wanted=wanted)

    def cautions(self, instance: Instance) -> list[str]:
        if not self.validate_every:
            return []
        views = Views(long_side=self.validation_size, resized_by="validation_size", verb="validates on")
        return outside_notes(instance, instance, views, splits=(self.validation_split,))

    def validation_layers(self, instance: Instance) -> dict[str, Layer]:
        """The layers that are read for a validation image."""
        return {"samples": instance.inputs["samples"].layer}

    def validation_sample(self, records: JoinedRecords, index: int) -> Sample:
        """One validation image."""
        return records.sample(index)

    def logits_of(self, network: Any, image_13HW: torch.Tensor, sample: Sample) -> torch.Tensor:
        """Logits f32[1, C, h, w] of one image."""
        logits_1Chw: torch.Tensor = network(image_13HW).float()
        return logits_1Chw

    def validation_samples(self, instance: Instance) -> Iterator[Sample]:
        """The validation images that have masks: the same ones at every validation."""
        records = JoinedRecords(self.validation_layers(instance), split=self.validation_split, seed=instance.seed)
        num_chosen = min(len(records), self.validation_images or len(records))
        for number in range(num_chosen):
            sample = self.validation_sample(records, number * len(records) // num_chosen)
            if sample.mask is not None:
                yield sample

    def require_validation_masks(self, instance: Instance) -> None:
        """Raises: ValueError if no validation image has a mask."""
        if next(self.validation_samples(instance), None) is None:
            raise ValueError(
                f"{instance.name}.validation_split = {self.validation_split!r} has no mask among the images chosen for "
                "validation; name a split with masks, or remove validate_every"
            )

    def mean_iou(self, network: Any, instance: Instance) -> Validation:
        """Mean IoU over all classes and the background, from one view of every image, at the masks' own size.

        Raises: ValueError if no image has a readable mask.
        """
        import torch

        from wsss.ops.confusion import Scores, confusion_matrix

        taxonomy, device = instance.taxonomy, next(network.parameters()).device
        num_classes = len(taxonomy) + 1
        labels = label_type(len(taxonomy))
        total_CC = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        for sample in self.validation_samples(instance):
            try:
                with torch.no_grad():
                    predicted_HW = self._predicted(sample, network, device=device)
            except BadSampleError:
                continue
            mask = labels.require(
                np.asarray(sample.mask), name=f"the mask of {sample.key!r}", num_classes=len(taxonomy)
            )
            truth_HW = torch.from_numpy(mask.astype(np.int64))
            total_CC += confusion_matrix(truth_HW, predicted_HW, num_classes=num_classes, ignore_index=labels.ignore)
        if not total_CC.any():
            raise ValueError(
                f"{instance.name}.validation_split = {self.validation_split!r} has no readable mask; name another split"
            )
        scores = Scores.from_confusion(total_CC)
        metrics = {"val.mean_iou": scores.mean_iou, "val.pixel_accuracy": scores.pixel_accuracy}
        names = ("background", *taxonomy.names)
        rows: list[dict[str, object]] = [
            {"class": name, "iou": None if np.isnan(iou) else iou}
            for name, iou in zip(names, scores.iou_per_class.tolist(), strict=True)
        ]
        return Validation(scores.mean_iou, Outcome(metrics=metrics, tables={"per_class": rows}))

    def _predicted(self, sample: Sample, network: Any, *, device: torch.device) -> torch.Tensor:
        """Labels i64[H, W] at the image's own size."""
        from wsss.data.images import long_side_size, resize_image, to_tensor
        from wsss.ops.multi_scale import resize_bilinear

        image_13HW = to_tensor(sample.image, mean=self.mean, std=self.std, device=device)[None]
        if self.validation_size:
            image_13HW = resize_image(image_13HW, size=long_side_size(sample.size, long_side=self.validation_size))
        logits_1CHW = resize_bilinear(self.logits_of(network, image_13HW, sample), size=sample.size)
        return logits_1CHW[0].max(0).indices.cpu()
