"""The images of the training split that a classifier is not trained on, and the images that it is validated on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from shards.layer import split_of
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
    digest = hashlib.sha256(f"hold out {seed} {key}".encode()).digest()
    return int.from_bytes(digest[: _BITS // 8], "big") < share * 2**_BITS


def training_records(stage: ClassifierTraining, instance: Instance, *, lanes: int) -> JoinedRecords:
    """The training split without the images that are held out."""
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
    samples, share = instance.inputs["samples"], stage.hold_out
    keep: Callable[[str], bool] | None = None
    if share:
        keep = lambda key: is_held_out(key, share=share, seed=samples.seed) == held_out  # noqa: E731
    return JoinedRecords({"samples": samples.layer}, split=TRAIN, seed=instance.seed, lanes=lanes, keep=keep)
