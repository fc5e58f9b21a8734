"""build_shards: from a data set on disk, the layer `samples`, to which the shards of all other layers correspond."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shards.class_report import class_lines, slip_lines
from shards.layer import shard_name, split_of
from shards.opened import opened
from shards.read_ahead import read_ahead
from shards.records import BadSampleError, Missing, Record
from shards.remote_tars import RemoteTars
from shards.set_aside import one_at_a_time, why_set_aside
from shards.shard_boundaries import (
    Boundaries,
    boundaries_by_bytes,
    boundaries_by_count,
    read_boundaries,
    write_boundaries,
)
from shards.sources.finished import FinishedShards
from shards.sources.folder import FolderSource
from shards.sources.source import Listed, Source, forget_lists, keys_of
from shards.summary import mask_lines, summarise
from shards.taxonomy import Taxonomy
from shards.work_notes import name_work, note
from wsss.contract.cost import ExpectedData, Load, PlanContext, ShardWork, Storage
from wsss.contract.settings import ActiveIf, active_unless, settings
from wsss.contract.stage import DataStage, Instance, Outcome, ShardWorker
from wsss.stages.data_sets.expected import class_list, expected_data, listing_figure
from wsss.stages.data_sets.registry import DataSettings, open_data_set, why_no_masks
from wsss.stages.data_sets.sample_bytes import bytes_of_split

UNSIZED = 128
"""Samples per shard if no count is given and image sizes are not known before reading (`toy`)."""
_CUT_BY_BYTES = ActiveIf(
    "shard_size = 0 and a source other than toy and shards",
    lambda stage: stage.shard_size == 0 and stage.source not in ("toy", "shards"),
)


@settings
class BuildShards(DataSettings, DataStage):
    """Copy a data set's images, labels and masks into shards; image bytes are not re-encoded.

    Shards that were built before are read in place: only their index and manifest entries are copied.
    """

    kind: ClassVar[str] = "build_shards"
    uses_torch: ClassVar[bool] = False

    source: Literal["toy", "voc", "ilsvrc_det", "lid", "coco", "folder", "imagenet_s", "shards"]
    """Layout of the data set on disk (see shards/README.md); `toy` is drawn in code; `shards` are finished shards, in a
    folder or at an s3:// or http(s):// address."""
    shard_size: Annotated[int, Field(ge=0), active_unless("shard_size", 0)] = 0
    """Samples per shard; with 0, `shard_megabytes` determines the shard boundaries."""
    shard_megabytes: Annotated[float, Field(gt=0), _CUT_BY_BYTES] = 100.0
    """Approximate size of a shard in millions of bytes. In every stage a worker processes one shard at a time, and
    repeats the shard after a failure. Large shards are read faster and give fewer files; small shards keep more workers
    busy and lose less work when one is killed."""

    @cached_property
    def data(self) -> Source | FinishedShards:
        """The data set that these settings describe."""
        return open_data_set(self.source, self, self.splits)

    @property
    def taxonomy(self) -> Taxonomy:
        return self.data.taxonomy

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        # Finished shards are not opened to check for boxes and saliency maps; the stages that read them do.
        fields = {"saliency"} if self.saliency or self.source == "shards" else set()
        if self.boxes != "none" or self.source in ("toy", "shards"):
            fields.add("boxes")
        return frozenset(fields)

    def listed_keys(self, split: str) -> Sequence[str] | None:
        """Keys of the samples of a split, by the data set's own list; None if there is none."""
        if isinstance(self.data, FinishedShards) or split not in self.splits:
            return None
        return keys_of(self.data.list_split(split))

    def forget_lists(self) -> None:
        forget_lists(self.data)

    def masks_only_measure(self) -> bool:
        return self.boxes != "masks"

    def signature(self, *, masks: bool = True) -> str:
        return self.data.signature(masks=masks)

    def why_no_masks(self, split: str) -> str:
        return why_no_masks(self.source, self, split)

    def check(self, instance: Instance) -> None:
        _ = self.taxonomy  # raises if a class name is unknown
        if unknown := sorted(set(self.masked_splits) - {*self.splits, "train", "val"}):
            raise ValueError(f"masked_splits names {unknown[0]!r}; splits has {', '.join(self.splits)}")
        if isinstance(self.data, FinishedShards):
            for split in self.splits:
                self.data.shards(split)  # raises if there are none
            return
        listings = {split: self.data.list_split(split) for split in self.splits}
        if len({key for listing in listings.values() for key in keys_of(listing)}) < sum(map(len, listings.values())):
            _refuse_repeated_keys(listings)

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
        """Read the file sizes once for all workers and write the shard boundaries; later changes do not move them."""
        if not isinstance(self.data, FinishedShards) and not self.shard_size:
            write_boundaries(instance.path, self._boundaries(instance))

    def _boundaries(self, instance: Instance) -> dict[str, Boundaries]:
        """Split -> its shard boundaries: those stored with the layer, else computed from the list of images."""
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
        # Other data sets are not opened here: a finished layer stays readable after its data set is gone.
        if self.source != "shards" or not isinstance(self.data, FinishedShards):
            return None
        return self.data.tars

    def take(self, instance: Instance, shard: str) -> bool:
        if not isinstance(self.data, FinishedShards):
            return False
        self.data.take(shard, instance.layer)
        return True

    def outcome(self, instance: Instance) -> Outcome:
        """Compare the masks with the labels, from the shards' manifest entries."""
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
        """Lines on the classes of data sets without a class list. `counts`: split -> name -> images."""
        if self.source == "folder" and not self.class_list:
            return list(class_lines(counts))
        if self.source == "coco":
            totals = Counter[str]()
            for of_split in counts.values():
                totals.update(of_split)
            return list(slip_lines(totals))
        return []

    def preview(self, instance: Instance) -> list[str]:
        """The classes of label tables without a class list, with their numbers of images."""
        if self.source != "folder" or self.class_list or not isinstance(self.data, FolderSource):
            return []
        return self._class_lines(self.data.class_counts())

    def worker(self, instance: Instance) -> ShardWorker:
        data = self.data
        assert not isinstance(data, FinishedShards)
        boundaries = self._boundaries(instance)

        def read(listed: Listed) -> Record | Missing:
            if (reason := why_set_aside(listed.key)) is not None:
                return Missing(key=listed.key, reason=reason)
            try:
                return data.read(listed)
            except BadSampleError as error:
                return Missing(key=listed.key, reason=str(error))
            except Exception as error:
                name_work(error, sample=listed.key)
                raise

        def build(shard: str) -> Iterator[Record | Missing]:
            split, number = split_of(shard), int(shard.rpartition("-")[2])
            chosen = data.list_split(split)[boundaries[split][number] : boundaries[split][number + 1]]
            if one_at_a_time():
                for listed in chosen:
                    note(sample=listed.key)
                    yield read(listed)
                return
            yield from read_ahead(read, chosen)

        return build

    def bytes_to_write(self, instance: Instance) -> float:
        """From the records of a few images; finished shards are read where they are."""
        if isinstance(self.data, FinishedShards):
            return 0.0
        built = sum(path.stat().st_size for path in instance.path.glob("*.tar"))
        total = sum(bytes_of_split(self.data, self.data.list_split(split)) for split in self.splits)
        return max(total - built, 0.0)

    def expected_data(self) -> ExpectedData:
        size = self.shard_size
        if not size and self.source in ("toy", "shards"):
            size = UNSIZED
        return expected_data(self.source, self, shard_images=size, shard_bytes=self.shard_megabytes * 1e6)

    def without_data(self) -> BuildShards:
        return BuildShardsWithoutData(**{field.name: getattr(self, field.name) for field in fields(self)})

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Images are copied, and decoded once to check them; finished shards are read in place."""
        images = context.images()
        total, shards, size = sum(images.values()), context.num_shards(images), context.record_bytes()
        driver = {"driver_row": float(total)}
        if self.source == "shards":  # only manifest entries and index are copied
            load, storage = Load(), Storage(requests=shards + 1.0)
        else:
            load = Load(core={"decode_image": context.stats.megapixels, "write_sample": 1.0})
            storage = Storage(read=total * size, written=total * size, requests=total + 2.0 * shards)
        if figure := listing_figure(self.source):
            driver[figure] = float(total)
        return ShardWork(images=total, shards=shards, load=load, has_network=False, storage=storage, driver=driver)


def _refuse_repeated_keys(listings: Mapping[str, Sequence[Listed]]) -> None:
    """Raise ValueError for the first key that is in the lists twice."""
    seen: dict[str, str] = {}
    for split, listing in listings.items():
        for key in keys_of(listing):
            if key in seen:
                raise ValueError(
                    f"{key!r} is in the lists of both {seen[key]!r} and {split!r}; images used for evaluation must not "
                    "be trained on, so remove it from one of the lists (one table for both needs a column split)"
                )
            seen[key] = split


@settings
class BuildShardsWithoutData(BuildShards):
    """The same stage for `wsss plan` without the data: the classes come from the data set's fixed class list."""

    @property
    def taxonomy(self) -> Taxonomy:
        return class_list(self.source, self)

    def signature(self, *, masks: bool = True) -> str:
        return "planned without its data"

    def listed_keys(self, split: str) -> None:
        return None

    def check(self, instance: Instance) -> None:
        """Does nothing: there are no data to check."""

    def tars(self) -> None:
        return None
