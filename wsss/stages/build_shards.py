"""build_shards: a data set on disk -> the layer `samples`, which all other layers stand beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shards.at_work import name_work
from shards.class_report import class_lines, slip_lines
from shards.layer import shard_name, split_of
from shards.opened import opened
from shards.read_ahead import read_ahead
from shards.records import BadSampleError, Missing, Record
from shards.remote_tars import RemoteTars
from shards.shard_boundaries import (
    Boundaries,
    boundaries_by_bytes,
    boundaries_by_count,
    read_boundaries,
    write_boundaries,
)
from shards.sources.finished import FinishedShards
from shards.sources.folder import FolderSource
from shards.sources.source import Listed, Source
from shards.summary import mask_lines, summarise
from shards.taxonomy import Taxonomy
from wsss.contract.cost import ExpectedData, Load, PlanContext, ShardWork, Storage
from wsss.contract.settings import ActiveIf, active_unless, settings
from wsss.contract.stage import DataStage, Instance, Outcome, ShardWorker
from wsss.stages.data_sets.expected import class_list, expected_data, listing_figure
from wsss.stages.data_sets.registry import DataSettings, open_data_set, why_no_masks

UNSIZED = 128
"""Samples per shard where neither a count is given nor the images have a size before they are read (`toy`)."""
_CUT_BY_BYTES = ActiveIf(
    "shard_size = 0, and not of the sources toy and shards",
    lambda stage: stage.shard_size == 0 and stage.source not in ("toy", "shards"),
)


@settings
class BuildShards(DataSettings, DataStage):
    """Copy a data set's images, labels and masks into shards; image bytes are not re-encoded.

    Shards that were built before are read where they lie: then only their index and rows are copied.
    """

    kind: ClassVar[str] = "build_shards"
    uses_torch: ClassVar[bool] = False

    source: Literal["toy", "voc", "ilsvrc_det", "lid", "coco", "folder", "shards"]
    """How the data set lies on disk (shards/README.md has the layouts); `toy` is drawn in code; `shards` are finished
    ones, in a folder or at an s3:// or http(s):// address."""
    shard_size: Annotated[int, Field(ge=0), active_unless("shard_size", 0)] = 0
    """Samples per shard; 0 boundaries the list by `shard_megabytes`."""
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

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        fields = {"saliency"} if self.source == "voc" and self.saliency else set()
        # Samples that finished shards hold are not opened for this: the training counts them.
        if self.boxes != "none" or self.source in ("toy", "shards"):
            fields.add("boxes")
        return frozenset(fields)

    def masks_only_measure(self) -> bool:
        return self.boxes != "masks"

    def signature(self, *, masks: bool = True) -> str:
        return self.data.signature(masks=masks)

    def why_no_masks(self, split: str) -> str:
        return why_no_masks(self.source, self, split)

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
        for split, boundaries in self._boundaries(instance).items():
            names.extend(shard_name(split, number) for number in range(len(boundaries) - 1)[: self.max_shards])
        return names

    def prepare(self, instance: Instance) -> None:
        """Look at the files once, for all workers, and for good: what becomes of a file later moves no cut."""
        if not isinstance(self.data, FinishedShards) and not self.shard_size:
            write_boundaries(instance.path, self._boundaries(instance))

    def _boundaries(self, instance: Instance) -> dict[str, Boundaries]:
        """Split -> where its shards begin in its list: as kept with the layer, else from the listing."""
        data = self.data
        assert not isinstance(data, FinishedShards)
        lengths = {split: len(data.list_split(split)) for split in self.splits}
        if self.shard_size:
            return {split: boundaries_by_count(length, size=self.shard_size) for split, length in lengths.items()}
        if (kept := read_boundaries(instance.path, lengths)) is not None:
            return kept
        boundaries: dict[str, Boundaries] = {}
        for split, length in lengths.items():
            sizes = data.image_bytes(split)
            if sizes is None:
                boundaries[split] = boundaries_by_count(length, size=UNSIZED)
            else:
                boundaries[split] = boundaries_by_bytes(sizes, target=int(self.shard_megabytes * 1e6))
        return boundaries

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

    def outcome(self, instance: Instance) -> Outcome:
        """The masks against the labels, from the shards' rows."""
        with opened(str(instance.path), tars=self.tars()) as layer:
            summary = summarise(layer)
        metrics = {
            f"masks.{split}.{name}": count
            for split, check in summary.checks.items()
            for name, count in check.metrics().items()
        }
        lines = self._class_lines(summary.images_of_classes())
        return Outcome(metrics=metrics, notes=(*lines, *mask_lines(summary)))

    def _class_lines(self, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
        """The classes, where no list says which there are. `counts`: split -> name -> images."""
        if self.source == "folder" and not self.class_list:
            return list(class_lines(counts))
        if self.source == "coco":
            totals = Counter[str]()
            for of_split in counts.values():
                totals.update(of_split)
            return list(slip_lines(totals))
        return []

    def preview(self, instance: Instance) -> list[str]:
        """The classes of tables without a class list, with their images."""
        if self.source != "folder" or self.class_list or not isinstance(self.data, FolderSource):
            return []
        return self._class_lines(self.data.class_counts())

    def worker(self, instance: Instance) -> ShardWorker:
        data = self.data
        assert not isinstance(data, FinishedShards)
        boundaries = self._boundaries(instance)

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
            yield from read_ahead(
                read, data.list_split(split)[boundaries[split][number] : boundaries[split][number + 1]]
            )

        return build

    def expected_data(self) -> ExpectedData:
        size = self.shard_size
        if not size and self.source in ("toy", "shards"):
            size = UNSIZED
        return expected_data(self.source, self, shard_images=size, shard_bytes=self.shard_megabytes * 1e6)

    def without_data(self) -> BuildShards:
        return BuildShardsWithoutData(**{field.name: getattr(self, field.name) for field in fields(self)})

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Images copied, and decoded once to see that they can be; finished shards are read where they are."""
        images = context.images()
        total, shards, size = sum(images.values()), context.num_shards(images), context.record_bytes()
        driver = {"driver_row": float(total)}
        if self.source == "shards":  # rows and index alone are copied
            load, storage = Load(), Storage(requests=shards + 1.0)
        else:
            load = Load(core={"decode_image": context.stats.megapixels, "write_sample": 1.0})
            storage = Storage(read=total * size, written=total * size, requests=total + 2.0 * shards)
        if figure := listing_figure(self.source):
            driver[figure] = float(total)
        return ShardWork(images=total, shards=shards, load=load, has_network=False, storage=storage, driver=driver)


@settings
class BuildShardsWithoutData(BuildShards):
    """The same stage for a plan where the data are not: the classes come from the data set's own list."""

    @property
    def taxonomy(self) -> Taxonomy:
        return class_list(self.source, self)

    def signature(self, *, masks: bool = True) -> str:
        return "planned without its data"

    def check(self, instance: Instance) -> None:
        """Nothing: there is nothing to look at."""

    def tars(self) -> None:
        return None
