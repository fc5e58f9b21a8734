"""build_shards: a data set on disk -> the layer `samples`, which all other layers stand beside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shards.at_work import name_work
from shards.cuts import Cuts, cuts_by_bytes, cuts_by_count, read_cuts, write_cuts
from shards.layer import shard_name, split_of
from shards.read_ahead import read_ahead
from shards.records import BadSampleError, Missing, Record
from shards.remote_tars import RemoteTars
from shards.sources.finished import FinishedShards
from shards.sources.source import Listed, Source
from shards.taxonomy import Taxonomy
from wsss.contract.settings import ReadIf, read_unless, settings
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.data_sets.registry import DataSettings, open_data_set

UNSIZED = 128
"""Samples per shard where neither a count is given nor the images have a size before they are read (`toy`)."""
_CUT_BY_BYTES = ReadIf(
    "shard_size = 0, and not of the sources toy and shards",
    lambda stage: stage.shard_size == 0 and stage.source not in ("toy", "shards"),
)


@settings
class BuildShards(DataSettings, Map):
    """Copy a data set's images, labels and masks into shards; image bytes are not re-encoded.

    Shards that were built before are read where they lie: then only their index and rows are copied.
    """

    kind: ClassVar[str] = "build_shards"
    record_kind: ClassVar[str] = "sample"
    uses_torch: ClassVar[bool] = False

    source: Literal["toy", "voc", "ilsvrc_det", "lid", "coco", "folder", "shards"]
    """How the data set lies on disk (shards/README.md has the layouts); `toy` is drawn in code; `shards` are finished
    ones, in a folder or at an s3:// or http(s):// address."""
    shard_size: Annotated[int, Field(ge=0), read_unless("shard_size", 0)] = 0
    """Samples per shard; 0 cuts the list by `shard_megabytes`."""
    shard_megabytes: Annotated[float, Field(gt=0), _CUT_BY_BYTES] = 100.0
    """Bytes per shard, about, in millions: the list is cut into the fewest shards of equal shares of the image files'
    bytes. A shard is what a worker takes, repeats after a fault and has lost when it is killed, in every stage: large
    ones are read fast and are few, small ones keep many workers busy and lose little."""

    @cached_property
    def data(self) -> Source | FinishedShards:
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
        if isinstance(self.data, FinishedShards):
            for split in self.splits:
                self.data.shards(split)  # raises where there are none
            return
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
        if isinstance(self.data, FinishedShards):
            for split in self.splits:
                names.extend(self.data.shards(split)[: self.max_shards])
            return names
        for split, cuts in self._cuts(instance).items():
            names.extend(shard_name(split, number) for number in range(len(cuts) - 1)[: self.max_shards])
        return names

    def prepare(self, instance: Instance) -> None:
        """Look at the files once, for all workers, and for good: what becomes of a file later moves no cut."""
        if not isinstance(self.data, FinishedShards) and not self.shard_size:
            write_cuts(instance.path, self._cuts(instance))

    def _cuts(self, instance: Instance) -> dict[str, Cuts]:
        """Split -> where its shards begin in its list: as kept with the layer, else from the listing."""
        data = self.data
        assert not isinstance(data, FinishedShards)
        lengths = {split: len(data.list_split(split)) for split in self.splits}
        if self.shard_size:
            return {split: cuts_by_count(length, size=self.shard_size) for split, length in lengths.items()}
        if (kept := read_cuts(instance.path, lengths)) is not None:
            return kept
        cuts: dict[str, Cuts] = {}
        for split, length in lengths.items():
            sizes = data.image_bytes(split)
            if sizes is None:
                cuts[split] = cuts_by_count(length, size=UNSIZED)
            else:
                cuts[split] = cuts_by_bytes(sizes, target=int(self.shard_megabytes * 1e6))
        return cuts

    def tars(self) -> RemoteTars | None:
        # Another data set is not opened for it: a finished layer is read where what it was made of is gone.
        if self.source != "shards" or not isinstance(self.data, FinishedShards):
            return None
        return self.data.tars

    def take(self, instance: Instance, shard: str) -> bool:
        if not isinstance(self.data, FinishedShards):
            return False
        self.data.take(shard, instance.layer)
        return True

    def worker(self, instance: Instance) -> ShardWorker:
        data = self.data
        assert not isinstance(data, FinishedShards)
        cuts = self._cuts(instance)

        def read(listed: Listed) -> Record | Missing:
            try:
                return data.read(listed)
            except BadSampleError as error:
                return Missing(key=listed.key, reason=str(error))
            except Exception as error:
                name_work(error, sample=listed.key)
                raise

        def build(shard: str) -> Iterator[Record | Missing]:
            split, number = split_of(shard), int(shard.rpartition("-")[2])
            yield from read_ahead(read, data.list_split(split)[cuts[split][number] : cuts[split][number + 1]])

        return build
