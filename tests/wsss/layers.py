"""Layers made by hand, and instances that stand on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shards.images import encode_png
from shards.layer import Layer
from shards.records import Missing, Record, Sample
from shards.writer import write_shard
from wsss.contract.stage import Instance, Map, Stage
from wsss.stages.build_shards import BuildShards

Shards = Mapping[str, Sequence[Record | Missing]]


def sample(key: str, mask: np.ndarray | None, *, position: int = 0, size: tuple[int, int] = (8, 12)) -> Sample:
    """An image of one colour with its mask; its labels are the mask's classes."""
    size = size if mask is None else (mask.shape[0], mask.shape[1])
    classes = () if mask is None else tuple(c for c in np.unique(mask).tolist() if c not in (0, 255))
    encoded = encode_png(np.full((*size, 3), 90, np.uint8))
    return Sample(key=key, encoded=encoded, size=size, classes=classes, mask=mask, position=position)


def write_layer(path: Path, kind: str, shards: Shards) -> Layer:
    layer = Layer(path, kind)
    for shard, records in shards.items():
        write_shard(layer, shard, records)
    layer.complete(list(shards))
    return layer


def instance_of(stage: Stage, path: Path, **inputs: Instance) -> Instance:
    digest = stage.kind.ljust(64, "0")
    return Instance(name=stage.kind, stage=stage, seed=3, inputs=inputs, fingerprint=digest, path=path / stage.kind)


class _WithoutList(BuildShards):
    """Samples whose keys are known from the layer alone."""

    def listed_keys(self, split: str) -> None:
        return None


def samples_of(path: Path, shards: Shards) -> Instance:
    """A build_shards instance of five classes whose layer holds these records."""
    instance = instance_of(_WithoutList(source="toy", counts={"train": 1, "val": 1}), path)
    write_layer(instance.path, "sample", shards)
    return instance


def records_of(stage: Map, path: Path, samples: Instance, shards: Shards) -> Instance:
    """An instance of that stage whose layer holds these records."""
    instance = instance_of(stage, path, samples=samples)
    write_layer(instance.path, stage.record_kind, shards)
    return instance
