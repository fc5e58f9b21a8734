"""Which classes the validation images of a classifier show, from the manifest alone."""

from __future__ import annotations

from collections.abc import Collection

from shards.balance import class_counts
from shards.layer import split_of
from wsss.contract.stage import Instance
from wsss.stages.classifier.hold_out import validation_classes
from wsss.stages.classifier.training import HELD_OUT, ClassifierTraining


def has_validation(stage: ClassifierTraining, instance: Instance) -> bool:
    """Whether there are images of the validation split."""
    if stage.validation_split == HELD_OUT:
        return bool(validation_classes(stage, instance))
    shards = instance.inputs["samples"].layer.shards()
    return any(split_of(shard) == stage.validation_split for shard in shards)


def validation_shows(stage: ClassifierTraining, instance: Instance, learned: Collection[int]) -> bool:
    """Whether any validation image shows a learned class."""
    return any(set(present) & set(learned) for present in validation_classes(stage, instance))


def validation_counts(stage: ClassifierTraining, instance: Instance) -> list[int] | None:
    """Number of images of each class in the validation split; None if there is no such split."""
    if not has_validation(stage, instance):
        return None
    learned = set(stage.learned(instance))
    classes = [sorted(learned.intersection(present)) for present in validation_classes(stage, instance)]
    return class_counts(classes, num_classes=len(instance.taxonomy)).tolist()
