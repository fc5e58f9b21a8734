"""build_shards: a data set on disk -> the layer `samples`, which all other layers stand beside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shards.layer import shard_name, split_of
from shards.records import BadSampleError, Missing, Record
from shards.sources.source import Source
from shards.taxonomy import Taxonomy
from wsss.settings import settings
from wsss.stages.data_sets.registry import DataSettings, open_data_set
from wsss.stages.stage import Instance, Map, ShardWorker


@settings
class BuildShards(DataSettings, Map):
    """Copy a data set's images, labels and masks into shards; image bytes are not re-encoded."""

    kind: ClassVar[str] = "build_shards"
    record_kind: ClassVar[str] = "sample"

    source: Literal["toy", "voc", "ilsvrc_det", "lid", "coco", "folder"]
    """How the data set lies on disk (shards/README.md has the layouts); `toy` is drawn in code."""
    shard_size: Annotated[int, Field(ge=1)] = 128
    """Samples per shard."""

    @cached_property
    def data(self) -> Source:
        """The data set behind these settings."""
        return open_data_set(self.source, self, self.splits)

    @property
    def taxonomy(self) -> Taxonomy:
        return self.data.taxonomy

    def signature(self) -> str:
        return self.data.signature()

    def check(self, instance: Instance) -> None:
        _ = self.taxonomy  # raises where a class name is unknown
        if unknown := sorted(set(self.masked_splits) - {*self.splits, "train", "val"}):
            raise ValueError(f"masked_splits names {unknown[0]!r}; splits has {', '.join(self.splits)}")
        seen: dict[str, str] = {}
        for split in self.splits:
            for listed in self.data.list_split(split):
                if listed.key in seen:
                    raise ValueError(
                        f"{listed.key!r} is in the lists of both {seen[listed.key]!r} and {split!r}; what is measured "
                        "on must not be trained on, take it out of one"
                    )
                seen[listed.key] = split

    def shards(self, instance: Instance) -> list[str]:
        names: list[str] = []
        for split in self.splits:
            count = -(-len(self.data.list_split(split)) // self.shard_size)
            names.extend(shard_name(split, number) for number in range(count)[: self.max_shards])
        return names

    def worker(self, instance: Instance) -> ShardWorker:
        def build(shard: str) -> Iterator[Record | Missing]:
            split, number = split_of(shard), int(shard.rpartition("-")[2])
            for listed in self.data.list_split(split)[number * self.shard_size : (number + 1) * self.shard_size]:
                try:
                    yield self.data.read(listed)
                except BadSampleError as error:
                    yield Missing(key=listed.key, reason=str(error))

        return build
