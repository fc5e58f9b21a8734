"""train_classifier: image-level labels -> a multi-label classifier, whose features the activation maps are made of."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import nn

from shards.balance import balance_factors, class_counts, expected_counts, positive_weights
from shards.files import write_bytes
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
from wsss.tasks.classification import ClassificationTask, Objective
from wsss.tasks.task import Task

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier

_TOLD_CLASSES = 8


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
    loss: Literal["bce", "soft_margin", "focal", "asymmetric"] = "bce"
    """Loss per (image, class)."""
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    """focal: exponent of the factor that makes easy classes count less."""
    asymmetric_gammas: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (1.0, 4.0)
    """asymmetric: exponents for classes that are there, and that are not."""
    asymmetric_margin: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """asymmetric: probability below which an absent class costs nothing."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Labels 1 and 0 become 1 - s / 2 and s / 2."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """linear: rate at which channels are left out before the last layer, in training."""
    mixing: Literal["none", "mixup", "cutmix"] = "none"
    """Mix every image with another of the batch."""
    mixing_alpha: Annotated[float, Field(gt=0)] = 0.2
    """mixup, cutmix: shares are drawn from Beta(alpha, alpha)."""
    balance: Literal["none", "down", "up", "down_up", "repeat"] = "none"
    """How often images of rare and frequent classes are drawn: `shards/balance.py` has the table."""
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] = 0.001
    """repeat: classes rarer than this share of the images are drawn more often (LVIS)."""
    balance_limit: Annotated[float, Field(ge=1)] = 10.0
    """Most draws of one image in an epoch."""
    class_weighting: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The positive loss of class c weighs (n_max / n_c) to this power; 0 weighs all alike."""
    class_weight_limit: Annotated[float, Field(ge=1)] = 10.0
    """Largest of these weights."""
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
        if self.repeat_threshold != TrainClassifier.repeat_threshold and self.balance != "repeat":
            raise ValueError(
                f"{instance.name}.repeat_threshold = {self.repeat_threshold} is for balance = 'repeat'; "
                f"balance is {self.balance!r}"
            )
        if self.dropout > 0 and self.head == "stochastic":
            raise ValueError(
                f"{instance.name}.dropout = {self.dropout} is for head = 'linear'; "
                "head = 'stochastic' has stochastic_drop_rate"
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
            dropout=self.dropout,
        )

    def task(self, instance: Instance) -> Task:
        network = cast("Classifier", self.model(instance, pretrained=True))
        return ClassificationTask(
            network, objective=self._objective(instance), synchronise_norms=self.norm == "synchronised"
        )

    def _objective(self, instance: Instance) -> Objective:
        weights = None
        if self.class_weighting > 0:
            counts = class_counts(self._records(instance).classes(), num_classes=len(instance.taxonomy))
            weights = positive_weights(counts, power=self.class_weighting, limit=self.class_weight_limit)
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
        return JoinedRecords({"samples": instance.inputs["samples"].layer}, split="train", seed=instance.seed)

    def training_set(self, instance: Instance) -> TrainingSet:
        records, taxonomy = self._records(instance), instance.taxonomy
        classes = records.classes()
        if empty := np.flatnonzero(class_counts(classes, num_classes=len(taxonomy)) == 0).tolist():
            raise ValueError(
                f"{instance.name}: no training image shows {taxonomy.name_of(empty[0] + 1)!r}; "
                "a class needs at least one image, leave it out of the class list otherwise"
            )
        if self.balance != "none":
            records.repeat(self._factors(classes, num_classes=len(taxonomy)))
        return _LabelledImages(self, records, num_classes=len(taxonomy), seed=instance.seed)

    def _factors(self, classes: list[list[int]], *, num_classes: int) -> np.ndarray:
        return balance_factors(
            classes,
            num_classes=num_classes,
            balance=self.balance,
            threshold=self.repeat_threshold,
            limit=self.balance_limit,
        )

    def finish(self, task: Task, instance: Instance) -> Outcome:
        """F1 and mean average precision on the validation split, class by class."""
        from wsss.classification_metrics import classification_metrics

        picture = {"class_histogram.png": self._draw_histogram(instance)}
        if not self.validation_split:
            return Outcome(artifacts=picture)
        scores_NC, truth_NC = _validate(task.network, self, instance)
        if len(scores_NC) == 0:
            return Outcome(artifacts=picture)
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
        metrics["val.f1_micro"] = micro
        return Outcome(metrics=metrics, tables={"per_class": rows}, artifacts=picture)

    def preview(self, instance: Instance) -> list[str]:
        """Images of the classes, and how many of them an epoch draws."""
        counts_C, drawn_C = self._histogram(instance)
        order, names = np.argsort(-counts_C, kind="stable"), instance.taxonomy.names
        told = [f"{names[c]} {counts_C[c]}" + _arrow(counts_C[c], drawn_C[c]) for c in order]
        if len(told) > 2 * _TOLD_CLASSES:
            told = [*told[:_TOLD_CLASSES], "...", *told[-_TOLD_CLASSES:]]
        return [f"training images per class (balance = {self.balance!r}): {', '.join(told)}"]

    def _histogram(self, instance: Instance) -> tuple[np.ndarray, np.ndarray]:
        """Images of each class, i64[C], and how many an epoch draws on average, f64[C]."""
        classes, num_classes = self._records(instance).classes(), len(instance.taxonomy)
        factors = self._factors(classes, num_classes=num_classes)
        counts_C = class_counts(classes, num_classes=num_classes)
        return counts_C, expected_counts(classes, factors=factors, num_classes=num_classes)

    def _draw_histogram(self, instance: Instance) -> str:
        from wsss.plots import draw_class_histogram

        counts_C, drawn_C = self._histogram(instance)
        path = instance.path / "class_histogram.png"
        names = instance.taxonomy.names
        write_bytes(path, draw_class_histogram(counts_C.tolist(), drawn_C=drawn_C.tolist(), names=names))
        return str(path)


def _arrow(count: int, drawn: float) -> str:
    return "" if round(drawn) == count else f" -> {drawn:.0f}"


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
