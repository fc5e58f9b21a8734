"""build_shards: a data set on disk -> the layer `samples`, which all other layers stand beside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shards.layer import shard_name, split_of
from shards.records import BadSampleError, Missing, Record
from shards.sources.source import Source
from shards.sources.toy import ToySource
from shards.sources.voc import VocSource
from shards.taxonomy import Taxonomy
from wsss.settings import Place, read_unless, settings
from wsss.stages.stage import Instance, Map, ShardWorker

LISTS = Path(__file__).resolve().parents[2] / "tuning" / "recipes" / "lists"


@settings
class BuildShards(Map):
    """Copy a data set's images, labels and masks into shards; image bytes are not re-encoded."""

    kind: ClassVar[str] = "build_shards"
    record_kind: ClassVar[str] = "sample"

    source: Literal["toy", "voc"]
    """How the data set lies on disk: `voc` is the devkit's layout, `toy` is drawn in code."""
    shard_size: Annotated[int, Field(ge=1)] = 128
    """Samples per shard."""
    root: Annotated[str, Place()] = ""
    """voc: the folder that holds JPEGImages."""
    lists: Annotated[dict[str, str], Place()] = Field(default_factory=dict)
    """voc: split -> file of keys, one a line; a bare name is looked up in tuning/recipes/lists."""
    labels: Annotated[str, Place()] = ""
    """voc: JSON file of image-level labels, relative to the root; empty reads the XML annotations."""
    masks: str = "SegmentationClassAug"
    """voc: folder of masks below the root."""
    masked_splits: tuple[str, ...] = ("train", "val")
    """voc: splits whose masks are read (they only measure, unless a stage says that it trains on them)."""
    class_names: tuple[str, ...] = ()
    """voc: the classes to keep, numbered in this order; all 20 where empty."""
    other_classes_as: Literal[0, 255] = 0
    """voc: what mask pixels of other classes become: background or ignored."""
    boxes: Annotated[Literal["none", "annotations", "masks"], read_unless("boxes", "none")] = "none"
    """voc: frames of objects: none, those of the XML annotations, or of the components of the masks that are read."""
    saliency: Annotated[str, Place()] = ""
    """voc: folder of saliency maps below the root, grey PNGs of the images' sizes; none where empty."""
    counts: dict[str, int] = Field(default_factory=dict)
    """toy: split -> number of pictures."""
    size: Annotated[int, Field(ge=32)] = 128
    """toy: mean side of a picture in pixels."""
    draw_seed: Annotated[int, Field(ge=0)] = 0
    """toy: which pictures are drawn."""

    @cached_property
    def data(self) -> Source:
        """The data set behind these settings."""
        if self.source == "toy":
            return ToySource(
                counts={split: self.counts.get(split, 0) for split in self.splits}, seed=self.draw_seed, size=self.size
            )
        if not self.root:
            raise ValueError("root is not set; it names the folder that holds JPEGImages")
        root = Path(self.root)
        if not (root / "JPEGImages").is_dir():
            raise ValueError(f"root = {self.root!r} holds no folder JPEGImages")
        if absent := [split for split in self.splits if split not in self.lists]:
            raise ValueError(f"lists.{absent[0]} is not set; it names the file of that split's keys, one a line")
        labels = root / self.labels if self.labels else None
        if labels is not None and not labels.is_file():
            raise ValueError(f"labels = {self.labels!r} names no file below the root ({labels})")
        if self.saliency and not (root / self.saliency).is_dir():
            raise ValueError(f"saliency = {self.saliency!r} names no folder below the root ({root / self.saliency})")
        if self.boxes == "annotations" and not (root / "Annotations").is_dir():
            raise ValueError(f"boxes = 'annotations', but root = {self.root!r} holds no folder Annotations")
        return VocSource(
            root=root,
            lists={split: self._list_path(self.lists[split]) for split in self.splits},
            labels=labels,
            masks=self.masks,
            masked_splits=self.masked_splits,
            class_names=self.class_names,
            other_classes_as=self.other_classes_as,
            boxes=self.boxes,
            saliency=self.saliency,
        )

    def _list_path(self, given: str) -> Path:
        return LISTS / given if "/" not in given else Path(given)

    @property
    def taxonomy(self) -> Taxonomy:
        return self.data.taxonomy

    def signature(self) -> str:
        return self.data.signature()

    def check(self, instance: Instance) -> None:
        _ = self.taxonomy  # raises where a class name is unknown
        if unknown := sorted(set(self.counts) - set(self.splits)):
            raise ValueError(f"counts.{unknown[0]} is of no split; splits has {', '.join(self.splits)}")
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
