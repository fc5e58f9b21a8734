"""train_classifier: from image-level labels, a multi-label classifier from which activation maps are computed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import numpy as np
from pydantic import Field

from shards.balance import balance_factors, class_counts, expected_counts, positive_weights
from shards.files import write_bytes
from shards.records import Sample
from wsss.contract.cost import FitWork, Load, PlanContext
from wsss.contract.fit import TrainingSet, Validation
from wsss.contract.settings import ActiveIf, PerformanceOnly, active_unless, active_with, settings
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Outcome
from wsss.data.joined_records import JoinedRecords
from wsss.stages.classifier.hold_out import training_records
from wsss.stages.classifier.training import HELD_OUT, ClassifierTraining
from wsss.stages.classifier.validated_images import has_validation, validation_counts, validation_shows

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wsss.models.classifier import Classifier
    from wsss.tasks.classification import ClassificationTask, Objective

_LISTED_CLASSES = 8
_WEIGHTED = ActiveIf("class_weighting > 0", lambda stage: stage.class_weighting > 0)
HISTOGRAM = "class_histogram.png"
_REVISION_OF_DRAWS = 4
"""Since this revision FickleNet's masks are drawn from a counter; other trainings are those of revision 3."""
_REVISION_OF_PATCHES = 5
"""Since this revision maps of a vision transformer's patches span the extended image; trainings are as before."""


_Exponent = Annotated[float, Field(ge=0)]


@settings
class TrainClassifier(ClassifierTraining):
    """Train a multi-label classifier on image-level labels."""

    kind: ClassVar[str] = "train_classifier"
    revision: ClassVar[int] = 3
    needs_every_class: ClassVar[bool] = True
    slots: ClassVar[dict[str, Slot]] = {"samples": Records((Sample,)), "classifier": Trained(ClassifierTraining)}

    frozen_stride: Annotated[Literal[1, 2, 4, 8], active_unless("frozen_stride", 1)] = 1
    """The encoder's stages up to this stride are not trained; 1 trains all of them. AffinityNet: 4 of VGG16, 2 of
    ResNet-38; norms are frozen by norm = "frozen"."""
    activation_checkpointing: Annotated[bool, PerformanceOnly()] = False
    """Recompute the encoder blocks' activations in the backward pass instead of storing them, which saves memory; needs
    norm = "frozen"."""
    loss: Literal["bce", "soft_margin", "focal", "asymmetric"] = "bce"
    """Loss function per (image, class) pair."""
    focal_gamma: Annotated[float, Field(ge=0), active_with("loss", "focal")] = 2.0
    """focal: exponent of the factor that reduces the loss of easy examples."""
    asymmetric_gammas: Annotated[
        tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]],
        active_with("loss", "asymmetric"),
    ] = (1.0, 4.0)
    """asymmetric: exponents for present and for absent classes."""
    asymmetric_margin: Annotated[float, Field(ge=0, lt=1), active_with("loss", "asymmetric")] = 0.05
    """asymmetric: absent classes with a probability below this have no loss."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The smoothing s: labels 1 and 0 become 1 - s / 2 and s / 2."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """linear: dropout probability of the channels before the last layer."""
    mixing: Literal["none", "mixup", "cutmix"] = "none"
    """Mix every image with another image of its micro-batch."""
    mixing_alpha: Annotated[float, Field(gt=0), active_with("mixing", "mixup", "cutmix")] = 0.2
    """mixup, cutmix: mixing weights are drawn from Beta(alpha, alpha)."""
    balance: Literal["none", "down", "up", "down_up", "repeat"] = "none"
    """How often images of rare and frequent classes are drawn; see the table in `shards/balance.py`."""
    repeat_threshold: Annotated[float, Field(gt=0, le=1), active_with("balance", "repeat")] = 0.001
    """repeat: images of classes that fewer than this share of the images show are drawn more often (LVIS)."""
    balance_limit: Annotated[float, Field(ge=1), active_with("balance", "down", "up", "down_up", "repeat")] = 10.0
    """Upper limit on how often one image is drawn per epoch, on average over epochs."""
    class_weighting: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The positive loss of class c, shown by n_c images, has the weight (n_max / n_c) to this power; with 0 all classes
    have the same weight."""
    class_weight_limit: Annotated[float, Field(ge=1), _WEIGHTED] = 10.0
    """Upper limit of these weights."""

    def own_revision(self) -> int:
        draws_masks = self.head == "stochastic" and self.stochastic_units == "windows" and self.stochastic_drop_rate > 0
        since = _REVISION_OF_DRAWS if draws_masks else self.revision
        return max(since, _REVISION_OF_PATCHES) if "vit" in self.encoder or "deit" in self.encoder else since

    def check(self, instance: Instance) -> None:
        super().check(instance)
        self.learned(instance)
        splits = (*instance.data.splits, *([HELD_OUT] if self.hold_out else []))
        if self.validation_split == HELD_OUT and not self.hold_out:
            raise ValueError(
                f"{instance.name}.validation_split = {HELD_OUT!r} needs images that are not trained on; set "
                f"{instance.name}.hold_out to their share of the split train, or name another split"
            )
        if self.validation_split not in ("", "val", *splits):
            raise ValueError(
                f"{instance.name}.validation_split = {self.validation_split!r}, but "
                f"{instance.samples.name} has only {', '.join(splits)}"
            )
        if self.validate_every and self.validation_split not in splits:
            raise ValueError(
                f"{instance.name}.validate_every needs a validation_split that {instance.samples.name} has: "
                f"{', '.join(splits)}"
            )
        if self.mixing != "none" and self.batch_size // (self.world_size * self.gradient_accumulation_steps) < 2:
            raise ValueError(
                f"{instance.name}.mixing = {self.mixing!r} mixes the images of a micro-batch: batch_size = "
                f"{self.batch_size} must be at least 2 times world_size times gradient_accumulation_steps"
            )
        if self.activation_checkpointing and self.norm != "frozen":
            raise ValueError(
                f"{instance.name}.activation_checkpointing needs norm = 'frozen': recomputed activations would be "
                f"counted twice in the statistics of norm = {self.norm!r}"
            )
        if self.stochastic_units != "windows" and self.head != "stochastic":
            raise ValueError(f"{instance.name}.stochastic_units is only for head = 'stochastic'; head is {self.head!r}")
        if self.repeat_threshold != TrainClassifier.repeat_threshold and self.balance != "repeat":
            raise ValueError(
                f"{instance.name}.repeat_threshold = {self.repeat_threshold} is only for balance = 'repeat'; "
                f"balance is {self.balance!r}"
            )
        if self.dropout > 0 and self.head == "stochastic":
            raise ValueError(
                f"{instance.name}.dropout = {self.dropout} is only for head = 'linear'; "
                "with head = 'stochastic' set stochastic_drop_rate instead"
            )
        if self.stochastic_kernel % 2 == 0:
            raise ValueError(
                f"{instance.name}.stochastic_kernel is {self.stochastic_kernel}; "
                "it must be odd, because windows have a central pixel"
            )

    def check_environment(self, instance: Instance) -> None:
        import torch

        super().check_environment(instance)
        if self.activation_checkpointing:
            with torch.device("meta"):
                cast("Classifier", self.model(instance, pretrained=False)).encoder.checkpoint_activations()

    def cost(self, instance: Instance, context: PlanContext) -> FitWork:
        """Crops of all training images; validation uses all images of its split."""
        from wsss.data.images import long_side_size

        validation = Load()
        images = self.planned_images(instance, context.train_images(), labels=context.stats.labels)
        held_out = round(images * self.hold_out)
        if count := context.stats.images.get(self.validation_split, held_out * (self.validation_split == HELD_OUT)):
            size = long_side_size(context.stats.size, long_side=self.validation_size)
            validation = context.validation(count, size=size)
        note = "balance changes how often images are drawn; the plan counts one pass over all images"
        known = "known_only leaves out an unknown number of images; the plan counts all of them"
        return context.fit_work(
            examples=images - held_out,
            crop_size=self.crop_size,
            strong=self.augmentation == "strong",
            validation=validation,
            notes=(note,) * (self.balance != "none") + (known,) * self.known_only,
        )

    def forward_pass(self, network: Classifier, image_B3HW: torch.Tensor, instance: Instance) -> torch.Tensor:
        import torch

        return network(image_B3HW, generator=torch.Generator())

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        from wsss.models.classifier import Classifier
        from wsss.models.norm import freeze_batch_norm

        encoder = self.first_encoder(instance, pretrained=pretrained)
        if self.norm == "frozen":
            freeze_batch_norm(encoder)
        encoder.freeze_stages(up_to_stride=self.frozen_stride)
        return Classifier(
            encoder,
            num_classes=len(instance.taxonomy),
            head=self.head,
            kernel_size=self.stochastic_kernel,
            drop_rate=self.stochastic_drop_rate,
            dropout=self.dropout,
            chosen=self.stochastic_units,
        )

    def task(self, instance: Instance) -> ClassificationTask:
        from wsss.tasks.classification import ClassificationTask

        network = cast("Classifier", self.model(instance, pretrained=True))
        if self.activation_checkpointing:
            network.encoder.checkpoint_activations()
        return ClassificationTask(
            network, objective=self._objective(instance), synchronise_norms=self.norm == "synchronised"
        )

    def _objective(self, instance: Instance) -> Objective:
        from wsss.tasks.classification import Objective

        weights = None
        if self.class_weighting > 0:
            _, drawn_C = self._histogram(instance)  # after balancing, so that classes are not balanced twice
            weights = positive_weights(drawn_C, power=self.class_weighting, limit=self.class_weight_limit)
        return Objective(
            loss=self.loss,
            focal_gamma=self.focal_gamma,
            asymmetric_gammas=self.asymmetric_gammas,
            asymmetric_margin=self.asymmetric_margin,
            label_smoothing=self.label_smoothing,
            positive_weights=None if weights is None else tuple(weights.tolist()),
            mixing=self.mixing,
            mixing_alpha=self.mixing_alpha,
        )

    def _records(self, instance: Instance) -> JoinedRecords:
        return training_records(self, instance, lanes=self.batch_size)

    def _classes(self, instance: Instance, records: JoinedRecords) -> list[list[int]]:
        """The learned classes of every training image."""
        learned, classes = set(self.learned(instance)), records.classes()
        if len(learned) == len(instance.taxonomy):
            return classes
        return [[c for c in present if c in learned] for present in classes]

    def training_set(self, instance: Instance) -> TrainingSet:
        from wsss.stages.classifier.labelled_images import LabelledImages

        records, taxonomy, learned = self._records(instance), instance.taxonomy, self.learned(instance)
        classes = self._classes(instance, records)
        counts_C = class_counts(classes, num_classes=len(taxonomy))
        if empty := [c for c in learned if counts_C[c - 1] == 0]:
            raise ValueError(
                f"{instance.name}: no training image{f' outside fold {self.fold}' if self.fold else ''} shows "
                f"{taxonomy.name_of(empty[0])!r}; every class needs at least one image, so add this class to "
                "dropped_classes or remove it from the class list"
                + (", or set a smaller hold_out" if self.hold_out else "")
                + (f"; if fold {self.fold} shows it, a smaller shard_size divides its images" if self.fold else "")
            )
        if has_validation(self, instance) and not validation_shows(self, instance, learned):
            raise ValueError(
                f"{instance.name}.validation_split = {self.validation_split!r} shows none of the learned classes; "
                'name another split, or set validation_split = "" to skip validation'
            )
        if self.balance != "none":
            records.repeat(self._factors(classes, num_classes=len(taxonomy)))
        return LabelledImages(self, records, learned=learned, num_classes=len(taxonomy), seed=instance.seed)

    def _factors(self, classes: list[list[int]], *, num_classes: int) -> np.ndarray:
        return balance_factors(
            classes,
            num_classes=num_classes,
            balance=self.balance,
            threshold=self.repeat_threshold,
            limit=self.balance_limit,
        )

    def begin(self, instance: Instance) -> None:
        """Write a picture of how often each class is shown per epoch."""
        from wsss.pictures.plots import draw_class_histogram

        counts_C, drawn_C = self._histogram(instance)
        picture = draw_class_histogram(
            counts_C.tolist(),
            drawn_C=drawn_C.tolist(),
            names=instance.taxonomy.names,
            validation_C=validation_counts(self, instance),
        )
        write_bytes(instance.path / HISTOGRAM, picture)

    def validate(self, network: Classifier, instance: Instance) -> Validation:
        """F1 and average precision of every learned class on the validation split, and their means."""
        from wsss.stages.classifier.validation import measured

        return measured(network, self, instance)

    def finish(self, network: Classifier, instance: Instance) -> Outcome:
        """The last validation, and the picture that was written before the first step."""
        found = self.validate(network, instance).outcome if has_validation(self, instance) else Outcome()
        return replace(found, artifacts={HISTOGRAM: str(instance.path / HISTOGRAM)})

    def preview(self, instance: Instance) -> list[str]:
        """Number of images of each class, and how many of them an epoch draws."""
        counts_C, drawn_C = self._histogram(instance)
        names, learned = instance.taxonomy.names, set(self.learned(instance))
        order = [c for c in np.argsort(-counts_C, kind="stable") if c + 1 in learned]
        listed = [f"{names[c]} {counts_C[c]}" + _arrow(counts_C[c], drawn_C[c]) for c in order]
        if len(listed) > 2 * _LISTED_CLASSES:
            listed = [*listed[:_LISTED_CLASSES], "...", *listed[-_LISTED_CLASSES:]]
        lines = [f"training images per class (balance = {self.balance!r}): {', '.join(listed)}"]
        if len(learned) < len(names):
            rest = [name for c, name in enumerate(names, start=1) if c not in learned]
            lines.append(f"not learned here: {', '.join(rest[: 2 * _LISTED_CLASSES])}")
        return lines

    def _histogram(self, instance: Instance) -> tuple[np.ndarray, np.ndarray]:
        """Number of images of each class, i64[C], and of those an epoch draws on average, f64[C]."""
        classes, num_classes = self._classes(instance, self._records(instance)), len(instance.taxonomy)
        factors = self._factors(classes, num_classes=num_classes)
        counts_C = class_counts(classes, num_classes=num_classes)
        return counts_C, expected_counts(classes, factors=factors, num_classes=num_classes)


def _arrow(count: int, drawn: float) -> str:
    return "" if round(drawn) == count else f" -> {drawn:.0f}"
