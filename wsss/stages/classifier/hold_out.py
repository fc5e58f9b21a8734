"""The images of the training split that a classifier is trained on, and the images that it is validated on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from shards.balance import balanced_subset
from shards.layer import split_of
from shards.ranges import from_ranges
from shards.reader import read_shard
from shards.records import BadSampleError, Sample
from wsss.contract.stage import Instance
from wsss.data.joined_records import JoinedRecords
from wsss.stages.classifier.training import HELD_OUT, ClassifierTraining

TRAIN = "train"
_BITS = 64


def is_held_out(key: str, *, share: float, seed: int) -> bool:
    """Whether an image is held out: a function of its key alone, so that other images do not change it.

    The images of a smaller share are a subset of those of a larger one.
    """
    return _drawn(key, purpose="hold out", seed=seed) < share * 2**_BITS


def _drawn(key: str, *, purpose: str, seed: int) -> int:
    """A number of `_BITS` bits that depends on the key, the purpose and the seed."""
    digest = hashlib.sha256(f"{purpose} {seed} {key}".encode()).digest()
    return int.from_bytes(digest[: _BITS // 8], "big")


def is_trained_on(stage: ClassifierTraining, instance: Instance) -> Callable[[str], bool]:
    """Whether a classifier is trained on the image of the split train with a key: chosen, and not held out."""
    chosen, samples = _chosen_keys(stage, instance), instance.inputs["samples"]

    def trained_on(key: str) -> bool:
        held_out = stage.hold_out > 0 and is_held_out(key, share=stage.hold_out, seed=samples.seed)
        return not held_out and (chosen is None or key in chosen)

    return trained_on


def _chosen_keys(stage: ClassifierTraining, instance: Instance) -> frozenset[str] | None:
    """The keys of the images that `known_only` and `images_per_class` choose, from the manifest alone; None if they
    choose all."""
    if not stage.images_per_class and not stage.known_only:
        return None
    samples, learned = instance.inputs["samples"], frozenset(stage.learned(instance))
    keys: list[str] = []
    classes: list[list[int]] = []
    for row in samples.layer.manifest_entries(TRAIN):
        columns = (row.entries.metadata(name) for name in ("classes", "unknown"))
        for key, present, unknown in zip(row.entries.keys, *columns, strict=True):
            if stage.known_only and not _is_known(stage, present, unknown or "", learned):
                continue
            keys.append(key)
            classes.append([c for c in present if c in learned])
    if not stage.images_per_class:
        return frozenset(keys)
    ranks = np.fromiter((_drawn(key, purpose="balanced", seed=samples.seed) for key in keys), np.uint64, len(keys))
    chosen = balanced_subset(
        classes, ranks=ranks, num_classes=len(instance.taxonomy), images_per_class=stage.images_per_class
    )
    return frozenset(key for key, is_chosen in zip(keys, chosen.tolist(), strict=True) if is_chosen)


def _is_known(stage: ClassifierTraining, present: list[int], unknown: str, learned: frozenset[int]) -> bool:
    """Whether a learned class of a training image is known. `unknown`: as in the manifest (`shards.ranges`)."""
    return not _covers(unknown, learned) or stage.takes_as_absent(present)


@cache
def _covers(unknown: str, learned: frozenset[int]) -> bool:
    return learned <= set(from_ranges(unknown))


def training_records(stage: ClassifierTraining, instance: Instance, *, lanes: int) -> JoinedRecords:
    """The images of the training split that the classifier is trained on."""
    return _records(stage, instance, held_out=False, lanes=lanes)


def validation_classes(stage: ClassifierTraining, instance: Instance) -> list[list[int]]:
    """Foreground classes of every validation image, without reading a shard; empty if there are no such images."""
    if stage.validation_split == HELD_OUT:
        return _records(stage, instance, held_out=True).classes()
    manifest = instance.inputs["samples"].layer.manifest_entries(stage.validation_split)
    return [list(classes) for entry in manifest for classes in entry.entries.metadata("classes")]


def validation_samples(stage: ClassifierTraining, instance: Instance) -> Iterator[Sample]:
    """The validation images, in the order of the shards."""
    if stage.validation_split == HELD_OUT:
        records = _records(stage, instance, held_out=True)
        for index in range(len(records)):
            try:
                yield stage.as_read(records.sample(index), TRAIN)
            except BadSampleError:
                continue
        return
    samples = instance.inputs["samples"].layer
    for shard in samples.shards():
        if split_of(shard) == stage.validation_split:
            for sample in read_shard(samples, shard):
                assert isinstance(sample, Sample)
                yield sample


def _records(stage: ClassifierTraining, instance: Instance, *, held_out: bool, lanes: int = 1) -> JoinedRecords:
    """One part of the training split. The seed of the samples decides: `seed_shift` repeats a training on the same."""
    samples = instance.inputs["samples"]
    keep: Callable[[str], bool] | None = None
    if held_out:
        chosen = _chosen_keys(stage, instance)
        keep = lambda key: (  # noqa: E731
            is_held_out(key, share=stage.hold_out, seed=samples.seed) and (chosen is None or key in chosen)
        )
    elif stage.hold_out or stage.images_per_class or stage.known_only:
        keep = is_trained_on(stage, instance)
    return JoinedRecords({"samples": samples.layer}, split=TRAIN, seed=instance.seed, lanes=lanes, keep=keep)
