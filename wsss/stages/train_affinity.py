"""train_affinity: seeds -> IRNet, which tells boundaries and displacements from the affinity of pixel pairs.

Shape letters: `B` batch, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field
from torch import nn

from shards.records import GRID_STRIDE, SeedRecord
from wsss.augment import Augmentation, SizeRange
from wsss.examples import JoinedRecords
from wsss.images import fill_colour, to_tensor
from wsss.settings import settings
from wsss.stages.augmented_records import AugmentedRecords
from wsss.stages.encoder_settings import EncoderSource
from wsss.stages.fit import Draw, TrainingSet
from wsss.stages.stage import Instance, Outcome
from wsss.tasks.affinity import AffinityTask
from wsss.tasks.task import Task

if TYPE_CHECKING:
    from wsss.models.irnet import IRNet


@settings
class TrainAffinity(EncoderSource):
    """Train IRNet's two branches on a frozen encoder."""

    kind: ClassVar[str] = "train_affinity"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "seeds": ("make_seeds",),
        "classifier": ("train_classifier",),
    }

    radius: Annotated[int, Field(ge=2)] = 10
    """Pixel pairs nearer than this are compared, in pixels of the stride-4 grid."""
    crop_size: Annotated[int, Field(ge=32, multiple_of=GRID_STRIDE)] = 512
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (256, 768)
    """Range of the longer side before cropping."""
    mean_shift_images: Annotated[int, Field(ge=0)] = 100
    """Training images over which the mean of the displacement field is taken after training."""

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        from wsss.models.irnet import IRNet
        from wsss.models.norm import freeze_batch_norm

        encoder = self.first_encoder(instance, pretrained=pretrained)
        freeze_batch_norm(encoder)
        return IRNet(encoder)

    def task(self, instance: Instance) -> Task:
        network = self.model(instance, pretrained=True)
        return AffinityTask(cast("IRNet", network), radius=self.radius, num_classes=len(instance.taxonomy))

    def training_set(self, instance: Instance) -> TrainingSet:
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "seeds")}
        return _SeededImages(self, JoinedRecords(layers, split="train", seed=instance.seed), seed=instance.seed)

    def finish(self, network: IRNet, instance: Instance) -> Outcome:
        """Set the mean of the displacement field, which inference subtracts (irn's MeanShift)."""
        examples = self.training_set(instance)
        device, total, count = network.mean_shift.device, torch.zeros(2), 0
        for index in range(min(self.mean_shift_images, len(examples))):
            image_13HW = examples.example(Draw(index, self.num_epochs))["image"][None].to(device)
            total += network(image_13HW)[1].mean((0, 2, 3)).cpu()
            count += 1
        # The pass itself subtracted the mean so far, which is 0 before it.
        network.mean_shift.copy_(total / max(count, 1))
        return Outcome(
            metrics={
                "mean_shift.rows": float(network.mean_shift[0]),
                "mean_shift.columns": float(network.mean_shift[1]),
            }
        )


class _SeededImages(AugmentedRecords):
    """Augmented images with seeds on the stride-4 grid."""

    def __init__(self, stage: TrainAffinity, records: JoinedRecords, *, seed: int) -> None:
        fill = fill_colour(stage.mean)
        augmentation = Augmentation(
            crop_size=stage.crop_size, resize_long=stage.resize_long, colour_jitter=0.0, fill=fill
        )
        super().__init__(records, augmentation, seed=seed)
        self._stage = stage

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        seeds = cast(SeedRecord, self.records.record(draw.index, "seeds"))
        image, label = self.augmented(draw, sample, mask_HW=seeds.label)
        assert label is not None
        middle = GRID_STRIDE // 2  # as irn: the nearest neighbour of a reduction by 4 is pixel 4 i + 2
        label_hw = torch.from_numpy(label[middle::GRID_STRIDE, middle::GRID_STRIDE].astype(np.int64))
        return {
            "key": sample.key,
            "image": to_tensor(image, mean=self._stage.mean, std=self._stage.std),
            "label": label_hw,
        }
