"""train_affinity: from seeds, a network that predicts which pixels belong together, from the affinity of pixel pairs.

Shape letters: `B` batch, `H W` pixels, `h w` the network's grid, of stride 4 (IRNet) or 8 (AffinityNet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field

from shards.records import Sample, SeedRecord
from wsss.contract.cost import FitWork, Load, PlanContext
from wsss.contract.fit import Draw, TrainingSet
from wsss.contract.settings import active_unless, active_with, settings
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Map, Outcome
from wsss.data.joined_records import JoinedRecords
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.classifier.training import ClassifierTraining

if TYPE_CHECKING:
    from torch import nn

    from wsss.models.affinitynet import AffinityNet
    from wsss.models.irnet import IRNet
    from wsss.tasks.task import Task


_PUBLISHED_LEVELS = {"conv4_conv5_fc7": "vgg16_affinitynet", "conv4_conv5_conv6": "resnet38"}
"""Published choice of levels -> the encoder that has them."""


@settings
class TrainAffinity(AffinityTraining):
    """Train IRNet's two branches on a frozen encoder, or AffinityNet with its encoder."""

    kind: ClassVar[str] = "train_affinity"
    revision: ClassVar[int] = 2
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "seeds": Records((SeedRecord,)),
        "classifier": Trained(ClassifierTraining),
    }

    levels: Annotated[
        Literal["last", "conv4_conv5_fc7", "conv4_conv5_conv6"],
        active_with("network", "affinitynet"),
        active_unless("levels", "last"),
    ] = "last"
    """affinitynet: the feature maps that it reads. `last`: the last three of any encoder, normalised; as published,
    `conv4_conv5_fc7` of encoder `vgg16_affinitynet`, normalised, or `conv4_conv5_conv6` of encoder `resnet38`, without
    normalisation."""
    frozen_stride: Annotated[Literal[1, 2, 4, 8], active_with("network", "affinitynet")] = 4
    """affinitynet: the encoder's stages up to this stride are not trained; 1 trains all of them."""
    mean_shift_images: Annotated[int, Field(ge=0), active_with("network", "irnet")] = 100
    """Number of training images over which the mean of the displacement field is computed after training."""

    def check(self, instance: Instance) -> None:
        super().check(instance)
        if self.network == "affinitynet" and self.output_stride != self.grid_stride:
            raise ValueError(
                f"{instance.name}.output_stride = {self.output_stride}: network = 'affinitynet' needs features of "
                "stride 8; set output_stride = 8"
            )
        needed = _PUBLISHED_LEVELS.get(self.levels, self.encoder)
        if self.network == "affinitynet" and self.encoder != needed:
            last = self.levels.rpartition("_")[2]
            fitting = [levels for levels, encoder in _PUBLISHED_LEVELS.items() if encoder == self.encoder]
            raise ValueError(
                f"{instance.name}.levels = {self.levels!r}, but {instance.name}.encoder = {self.encoder!r} has no "
                f"{last}; set {instance.name}.encoder = {needed!r}, or {instance.name}.levels = "
                + " or ".join(map(repr, [*fitting, "last"]))
            )
        seeds = instance.inputs["seeds"]
        if self.pools_scores and "scores" not in instance.stage_in("seeds", Map).optional_fields(seeds):
            raise ValueError(
                f"{instance.name}.grid_labels = 'pooled_scores' needs the scores of {seeds.name}; set "
                f"{seeds.name}.rule = 'exponents' and {seeds.name}.keep_scores = true, or "
                f"{instance.name}.grid_labels = 'pixels'"
            )
        if self.network == "irnet" and self.norm != "frozen":
            raise ValueError(
                f"{instance.name}.norm = {self.norm!r}: network = 'irnet' does not train its encoder; set 'frozen'"
            )
        # The first pixel of every pair is at least radius - 1 pixels from three borders of the crop.
        side = self.crop_size // self.grid_stride
        if side <= 2 * (self.radius - 1):
            raise ValueError(
                f"{instance.name}.radius = {self.radius} leaves no pair inside a crop of {side} x {side} pixels of "
                f"stride {self.grid_stride}; set crop_size above {2 * (self.radius - 1) * self.grid_stride}, or a "
                "smaller radius"
            )

    def check_environment(self, instance: Instance) -> None:
        """Refuse a vision transformer, before its other settings are checked, and what every training refuses."""
        from wsss.models.vision_transformer import is_vision_transformer

        if is_vision_transformer(self.encoder):
            raise ValueError(
                f"encoder = {self.encoder!r}: IRNet and AffinityNet read the maps of a convolutional encoder at "
                "several strides, or at stride 8, and a vision transformer has one map of stride 16; set another "
                "encoder, such as 'resnet50', here; the classifier may be a vision transformer nevertheless"
            )
        super().check_environment(instance)

    def cost(self, instance: Instance, context: PlanContext) -> FitWork:
        """Crops with their seeds; after the last step, the mean of IRNet's displacement field."""
        from wsss.stages.affinity.cost import pair_units

        means = Load()
        if self.network == "irnet":
            flops = context.network().forward((self.crop_size, self.crop_size), method="forward")
            means = Load(flops=flops, passes=1) * self.mean_shift_images
        return context.fit_work(
            examples=context.train_images(),
            crop_size=self.crop_size,
            strong=self.augmentation == "strong",
            arrays=pair_units(self),
            validation=means,
        )

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        from wsss.models.affinitynet import AffinityNet
        from wsss.models.irnet import IRNet
        from wsss.models.norm import freeze_batch_norm

        encoder = self.first_encoder(instance, pretrained=pretrained)
        if self.network == "irnet" or self.norm == "frozen":
            freeze_batch_norm(encoder)
        if self.network == "irnet":
            return IRNet(encoder)
        normalised = self.levels != "conv4_conv5_conv6"
        return AffinityNet(encoder, frozen_stride=self.frozen_stride, normalised=normalised)

    def task(self, instance: Instance) -> Task:
        from wsss.tasks.affinity import AffinityNetTask, IRNetTask

        network, num_classes = self.model(instance, pretrained=True), len(instance.taxonomy)
        if self.network == "irnet":
            return IRNetTask(cast("IRNet", network), radius=self.radius, num_classes=num_classes)
        return AffinityNetTask(
            cast("AffinityNet", network),
            radius=self.radius,
            num_classes=num_classes,
            synchronise_norms=self.norm == "synchronised",
        )

    def training_set(self, instance: Instance) -> TrainingSet:
        from wsss.stages.affinity.seeded_images import SeededImages

        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "seeds")}
        records = JoinedRecords(layers, split="train", seed=instance.seed, lanes=self.batch_size)
        return SeededImages(self, records, seed=instance.seed, num_classes=len(instance.taxonomy))

    def finish(self, network: IRNet | AffinityNet, instance: Instance) -> Outcome:
        """IRNet: set the mean of the displacement field, which inference subtracts (irn's MeanShift)."""
        if self.network == "affinitynet":
            return Outcome()
        import torch

        network = cast("IRNet", network)
        examples = self.training_set(instance)
        device, total, count = network.mean_shift.device, torch.zeros(2), 0
        for index in range(min(self.mean_shift_images, len(examples))):
            image_1HW3 = examples.example(Draw(index, self.num_epochs))["image"][None].to(device)
            total += network(self.on_device({"image": image_1HW3})["image"])[1].mean((0, 2, 3)).cpu()
            count += 1
        # The forward passes subtracted mean_shift, which is still 0 here.
        network.mean_shift.copy_(total / max(count, 1))
        return Outcome(
            metrics={
                "mean_shift.rows": float(network.mean_shift[0]),
                "mean_shift.columns": float(network.mean_shift[1]),
            }
        )
