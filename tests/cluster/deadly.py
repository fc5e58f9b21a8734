"""A stage that makes seeds of samples and ends its process at some of them; in a module because actors import it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from shards.images import encode_png
from shards.layer import Layer
from shards.records import Missing, Record, Sample, SeedRecord
from shards.writer import write_shard
from wsss.contract.batch_parts import BatchParts
from wsss.contract.settings import settings
from wsss.contract.shard_workers import work_per_group
from wsss.contract.stage import Instance, Map, ShardWorker

SHARDS = ["train-000000", "train-000001", "train-000002"]
PER_SHARD = 4


@settings
class DeadlyMap(Map):
    """One seed for each sample, two samples at a time."""

    kind: ClassVar[str] = "deadly_map"
    record_kind: ClassVar[str] = "seed"
    uses_torch: ClassVar[bool] = False
    deadly: tuple[str, ...] = ()
    """Samples at which the process ends, every time."""
    broken: str = ""
    """Sample at which CUDA fails, once."""
    refused: tuple[str, ...] = ()
    """Samples that cannot be used."""

    def shards(self, instance: Instance) -> list[str]:
        return SHARDS

    def worker(self, instance: Instance) -> ShardWorker:
        def make(together: Sequence[Mapping[str, Record]], images: Sequence[np.ndarray]) -> list[Record]:
            keys = [joined["samples"].key for joined in together]
            if set(keys) & set(self.deadly):
                with (instance.path / "exits.txt").open("a") as file:
                    file.write(f"{keys}\n")
                os._exit(7)
            if self.broken in keys and not (instance.path / "broken.txt").exists():
                (instance.path / "broken.txt").touch()
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            return [SeedRecord(key=key, label=image[..., 0]) for key, image in zip(keys, images, strict=True)]

        def leave_out(joined: Mapping[str, Record], shard: str) -> Missing | None:
            key = joined["samples"].key
            return Missing(key=key, reason="refused") if key in self.refused else None

        layers, parts = {"samples": instance.inputs["samples"].layer}, BatchParts(2, setting="batch_images")
        return work_per_group(layers, make, parts=parts, leave_out=leave_out)


@settings
class Samples(Map):
    """The samples that `deadly` reads."""

    kind: ClassVar[str] = "samples"
    record_kind: ClassVar[str] = Sample.kind

    def worker(self, instance: Instance) -> ShardWorker:
        raise NotImplementedError


def deadly(folder: Path, **stage: Any) -> Instance:
    """An instance in `folder`, with three shards of four samples."""
    given: dict[str, Any] = {"seed": 3, "fingerprint": "0" * 64}
    samples = Instance(name="samples", stage=Samples(), inputs={}, path=folder / "samples", **given)
    for number, shard in enumerate(SHARDS):
        records = [_sample(f"{shard}-{index}", number, index) for index in range(PER_SHARD)]
        write_shard(Layer(samples.path, Sample.kind), shard, records)
    made = Instance(name="deadly", stage=DeadlyMap(**stage), inputs={"samples": samples}, path=folder / "made", **given)
    made.path.mkdir()
    return made


def _sample(key: str, number: int, index: int) -> Sample:
    image = np.full((5, 7, 3), 10 * number + index, np.uint8)
    return Sample(key=key, encoded=encode_png(image), size=(5, 7), classes=(1,))
