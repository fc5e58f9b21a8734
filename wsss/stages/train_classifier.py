"""train_classifier: image-level labels -> a multi-label classifier, whose features the activation maps are made of."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import nn

from shards.balance import class_counts, repeat_factors
from shards.layer import split_of
from shards.reader import read_shard
from shards.records import BadSampleError, Sample
from wsss.augment import Augmentation, SizeRange, augment
from wsss.examples import JoinedRecords
from wsss.images import fill_colour, long_side_size, resize_image, to_tensor
from wsss.settings import settings
from wsss.stages.encoder_settings import EncoderSource
from wsss.stages.fit import TrainingSet
from wsss.stages.stage import Instance, Outcome
from wsss.tasks.classification import ClassificationTask
from wsss.tasks.task import Task

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier


@settings
class TrainClassifier(EncoderSource):
    """Train a multi-label classifier on image-level labels."""

    kind: ClassVar[str] = "train_classifier"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {"samples": ("build_shards",), "classifier": ("train_classifier",)}

    head: Literal["linear", "stochastic"] = "linear"
    """`linear`: global average pooling and a linear layer; `stochastic`: FickleNet's random choice of hidden units."""
    stochastic_kernel: Annotated[int, Field(ge=1)] = 9
    """stochastic: side s of the window that units are chosen in; odd."""
    stochastic_drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """stochastic: probability p that a unit is dropped."""
    loss: Literal["bce", "focal"] = "bce"
    """Loss per (image, class)."""
    repeat_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """LVIS repeat factors: images of classes rarer than this share are drawn more often; 0 draws all once."""
    crop_size: Annotated[int, Field(ge=32)] = 512
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (320, 640)
    """Range of the longer side before cropping."""
    colour_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of random colour changes."""
    validation_split: str = "val"
    """Split whose labels measure F1 and mean average precision after training; empty skips it."""
    validation_size: Annotated[int, Field(ge=32)] = 512
    """Longer side of validation images in pixels."""

    def check(self, instance: Instance) -> None:
        super().check(instance)
        splits = instance.samples.stage.splits  # type: ignore[attr-defined]
        if self.validation_split not in ("", "val", *splits):
            raise ValueError(
                f"{instance.name}.validation_split = {self.validation_split!r}; "
                f"{instance.samples.name} has {', '.join(splits)}"
            )
        if self.stochastic_kernel % 2 == 0:
            raise ValueError(
                f"{instance.name}.stochastic_kernel is {self.stochastic_kernel}; "
                "windows have a centre, so it must be odd"
            )

    def model(self, instance: Instance, *, pretrained: bool) -> nn.Module:
        from wsss.models.classifier import Classifier
        from wsss.models.norm import freeze_batch_norm

        encoder = self.first_encoder(instance, pretrained=pretrained)
        if self.norm == "frozen":
            freeze_batch_norm(encoder)
        return Classifier(
            encoder,
            num_classes=len(instance.taxonomy),
            head=self.head,
            kernel_size=self.stochastic_kernel,
            drop_rate=self.stochastic_drop_rate,
        )

    def task(self, instance: Instance) -> Task:
        network = cast("Classifier", self.model(instance, pretrained=True))
        return ClassificationTask(network, loss=self.loss, synchronise_norms=self.norm == "synchronised")

    def training_set(self, instance: Instance) -> TrainingSet:
        records = JoinedRecords({"samples": instance.inputs["samples"].layer}, split="train", seed=instance.seed)
        classes, taxonomy = records.classes(), instance.taxonomy
        if empty := np.flatnonzero(class_counts(classes, num_classes=len(taxonomy)) == 0).tolist():
            raise ValueError(
                f"{instance.name}: no training image shows {taxonomy.name_of(empty[0] + 1)!r}; "
                "a class needs at least one image, leave it out of the class list otherwise"
            )
        if self.repeat_threshold > 0:
            records.repeat(repeat_factors(classes, num_classes=len(taxonomy), threshold=self.repeat_threshold))
        return _LabelledImages(self, records, num_classes=len(taxonomy), seed=instance.seed)

    def finish(self, task: Task, instance: Instance) -> Outcome:
        """F1 and mean average precision on the validation split, class by class."""
        from wsss.classification_metrics import classification_metrics

        if not self.validation_split:
            return Outcome()
        scores_NC, truth_NC = _validate(task.network, self, instance)
        if len(scores_NC) == 0:
            return Outcome()
        precision_C, f1_C, micro = classification_metrics(scores_NC, truth_NC=truth_NC)
        rows: list[dict[str, object]] = [
            {
                "class": name,
                "average_precision": _number(ap),
                "f1": _number(f1),
                "images": int(truth_NC[:, column].sum()),
            }
            for column, (name, ap, f1) in enumerate(zip(instance.taxonomy.names, precision_C, f1_C, strict=True))
        ]
        metrics = {
            "val.mean_average_precision": float(np.nanmean(precision_C)),
            "val.f1_macro": float(np.nanmean(f1_C)),
        }
        return Outcome(metrics=metrics | {"val.f1_micro": micro}, tables={"per_class": rows})


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


class _LabelledImages:
    """Augmented images with multi-hot labels."""

    def __init__(self, stage: TrainClassifier, records: JoinedRecords, *, num_classes: int, seed: int) -> None:
        self._stage, self._records, self._num_classes, self._seed = stage, records, num_classes, seed

    @cached_property
    def _compose(self) -> Any:
        stage = self._stage
        return Augmentation(
            crop_size=stage.crop_size,
            resize_long=stage.resize_long,
            colour_jitter=stage.colour_jitter,
            fill=fill_colour(stage.mean),
        ).compose()

    def __len__(self) -> int:
        return len(self._records)

    def order(self, epoch: int) -> np.ndarray:
        return self._records.order(epoch)

    def example(self, index: int, epoch: int) -> dict[str, Any]:
        sample = self._records.sample(index)
        image, _ = augment(self._compose, sample.image, mask_HW=None, seed=self._seed, epoch=epoch, key=sample.key)
        target, known = torch.zeros(self._num_classes), torch.ones(self._num_classes)
        target[[c - 1 for c in sample.classes]] = 1.0
        known[[c - 1 for c in sample.unknown]] = 0.0
        image_3HW = to_tensor(image, mean=self._stage.mean, std=self._stage.std)
        return {"key": sample.key, "image": image_3HW, "target": target, "known": known}


@torch.no_grad()
def _validate(network: Any, stage: TrainClassifier, instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and truth of every validation image, f64[N, C] each."""
    samples = instance.inputs["samples"].layer
    device = next(network.parameters()).device
    scores, truth = [], []
    for shard in samples.shards():
        if split_of(shard) != stage.validation_split:
            continue
        for sample in read_shard(samples, shard):
            assert isinstance(sample, Sample)
            try:
                image = sample.image
            except BadSampleError:
                continue
            x_13HW = to_tensor(image, mean=stage.mean, std=stage.std)[None].to(device)
            x_13HW = resize_image(x_13HW, size=long_side_size(sample.size, long_side=stage.validation_size))
            scores.append(torch.sigmoid(network(x_13HW)[0].float()).cpu().double().numpy())
            truth.append(np.isin(np.arange(1, len(instance.taxonomy) + 1), sample.classes))
    return np.array(scores), np.array(truth)
