"""The stages of the recipe whose workers compute nothing: what remains is reading, joining, encoding, writing and Ray.

A worker computes one record for every size of image and number of classes, and returns it again, under another key,
for all images like it. In a module of its own because actors import it. build_shards has no such stage: it computes
nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np

from shards.records import Record, Sample
from wsss.contract.settings import settings
from wsss.contract.shard_workers import MakeGroup, work_per_group, work_per_record
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.make_seeds import MakeSeeds
from wsss.stages.predict import Predict

Joined = Mapping[str, Record]
_MADE: dict[tuple[Hashable, ...], Record] = {}
"""The records that this process computed: (folders of the layers read, what the image is like) -> record."""


def ready(instance: Instance, folder: Any) -> Instance:
    """The same instance with a worker that computes nothing, which writes to another folder."""
    kind = next(one for one in _STAGES if issubclass(one, type(instance.stage)))
    values = {each.name: getattr(instance.stage, each.name) for each in fields(instance.stage)}
    return replace(instance, stage=kind(**values), path=folder)


def has_ready(instance: Instance) -> bool:
    """Whether the worker of a stage computes something."""
    return any(issubclass(one, type(instance.stage)) for one in _STAGES)


def _again(layers: Mapping[str, Any], joined: Joined, make: Callable[[], Record]) -> Record:
    sample = cast(Sample, joined["samples"])
    like = (*sorted(str(layer.path) for layer in layers.values()), sample.size, len(sample.classes))
    if like not in _MADE:
        _MADE[like] = make()
    return cast(Record, replace(cast(Any, _MADE[like]), key=sample.key))


def _per_record(layers: Mapping[str, Any], make: Callable[[Joined], Record], **settings: Any) -> ShardWorker:
    return work_per_record(layers, lambda joined: _again(layers, joined, lambda: make(joined)), **settings)


def _per_group(layers: Mapping[str, Any], make: MakeGroup, **settings: Any) -> ShardWorker:
    def of_group(together: Sequence[Joined], images: Sequence[np.ndarray]) -> list[Record]:
        def one(joined: Joined, image: np.ndarray) -> Record:
            return _again(layers, joined, lambda: make([joined], [image])[0])

        return [one(joined, image) for joined, image in zip(together, images, strict=True)]

    return work_per_group(layers, of_group, **settings)


class _Ready(Map):
    """Replaces the functions that workers are made of, in this process: an actor of the benchmark."""

    def worker(self, instance: Instance) -> ShardWorker:
        for stage in type(self).__mro__:
            module = sys.modules[stage.__module__]
            for name, function in (("work_per_record", _per_record), ("work_per_group", _per_group)):
                if stage.__module__.startswith("wsss.stages.") and hasattr(module, name):
                    setattr(module, name, function)
        return super().worker(instance)  # type: ignore[safe-super]


@settings
class ReadyCams(_Ready, MakeCams):
    """make_cams."""


@settings
class ReadySeeds(_Ready, MakeSeeds):
    """make_seeds."""


@settings
class ReadyScores(_Ready, MakeScores):
    """make_scores."""


@settings
class ReadyPseudoLabels(_Ready, MakePseudoLabels):
    """make_pseudo_labels."""


@settings
class ReadyPredictions(_Ready, Predict):
    """predict."""


_STAGES: tuple[type[Map], ...] = (ReadyCams, ReadySeeds, ReadyScores, ReadyPseudoLabels, ReadyPredictions)
