"""A folder of images with a table of labels (see `label_table`), and optionally a folder of masks.

The classes come from a class list (see `read_class_list`) or, without one, are all names in the tables, sorted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from shards.boxes import boxes_of_mask
from shards.files import sha256_of
from shards.label_type import BACKGROUND
from shards.records import Sample
from shards.sources.class_names import read_class_list, refuse_doubtful
from shards.sources.classes import ChosenClasses
from shards.sources.disk import StoredImage, file_sizes, presence, read_image, read_index_png, read_saliency
from shards.sources.label_table import Labelled, LabelTable
from shards.sources.source import Listed, Listing
from shards.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Images in the order of their first rows; a key is an image's path without its file extension."""

    root: Path
    tables: Mapping[str, Path]
    """Split -> CSV file. If it has a column `split`, only the rows of that split are read."""
    label_separator: str
    """Separates the names in a cell."""
    class_list: Path | None = None
    """File of all class names, one per line; None uses the names in the tables. Required with masks."""
    masks: str = ""
    """Folder of masks below the root: index PNGs named by key, with values 0, 1..C and 255; with more than 254 classes
    16 bits and 65,535. No masks if empty."""
    mask_suffix: str = ""
    """Inserted between a mask's key and its extension: with _mask, the mask is 1_mask.png."""
    masked_splits: tuple[str, ...] = ()
    """Splits whose masks are read."""
    boxes: Literal["none", "masks"] = "none"
    """Boxes of objects: none, or from the connected components of the masks that are read."""
    saliency: str = ""
    """Folder of saliency maps below the root: grey PNGs named by key, not needed for every image; none if empty."""
    class_names: tuple[str, ...] = ()
    """A subset of the classes, numbered in this order; all of them if empty."""
    other_classes_as: int = BACKGROUND
    """Value of mask pixels of classes outside the subset: 0 or 255."""
    _images: dict[str, dict[str, Labelled]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.masks and self.class_list is None:
            raise ValueError(
                "masks are given, but no class_list; give the file that lists the class of each mask value"
            )

    @cached_property
    def _classes(self) -> ChosenClasses:
        names = self._table_names() if self.class_list is None else read_class_list(self.class_list)
        return ChosenClasses(every=Taxonomy(names), names=self.class_names, other_classes_as=self.other_classes_as)

    def _table_names(self) -> tuple[str, ...]:
        """The names in all tables, sorted. Raises ValueError if there are none, or if some are doubtful."""
        met: dict[str, str] = {}
        for split in self.tables:
            table = self._table(split)
            for name, line in table.names().items():
                met.setdefault(name, f"{table.path}, line {line}")
        if not met:
            raise ValueError(
                f"{next(iter(self.tables.values()))} contains no class; list the classes in class_list, one per line"
            )
        refuse_doubtful(met, separator=self.label_separator)
        return tuple(sorted(met))

    @property
    def taxonomy(self) -> Taxonomy:
        return self._classes.taxonomy

    def _table(self, split: str) -> LabelTable:
        if split not in self.tables:
            raise ValueError(f"no table for split {split!r}; tables are given for {sorted(self.tables)}")
        others = frozenset(self.tables) - {split}
        return LabelTable(path=self.tables[split], split=split, separator=self.label_separator, other_splits=others)

    def _labelled(self, split: str) -> dict[str, Labelled]:
        """Key -> labels; cached."""
        if split not in self._images:
            self._images[split] = self._table(split).images(self._classes.every)
        return self._images[split]

    def list_split(self, split: str) -> Listing:
        return Listing(split, tuple(self._labelled(split)))

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Split -> name of a selected class -> images labelled with it in the table."""
        names = self.taxonomy.names
        found: dict[str, dict[str, int]] = {}
        for split in self.tables:
            counts = Counter(c for one in self._labelled(split).values() for c in self._classes.ids(one.present))
            found[split] = {name: counts[class_id] for class_id, name in enumerate(names, start=1)}
        return found

    def image_bytes(self, split: str) -> np.ndarray:
        return file_sizes(self.root, [key + one.ending for key, one in self._labelled(split).items()])

    def read(self, listed: Listed) -> Sample:
        labelled = self._labelled(listed.split)[listed.key]
        image = read_image(self.root, listed.key + labelled.ending)
        mask = self._mask(listed, image)
        saliency = self._saliency_name(listed.key)
        return Sample(
            key=listed.key,
            encoded=image.encoded,
            size=image.size,
            classes=self._classes.ids(labelled.present),
            unknown=self._classes.ids(labelled.unknown),
            mask=mask,
            boxes=boxes_of_mask(mask) if self.boxes == "masks" and mask is not None else None,
            saliency=read_saliency(self.root, saliency, image=image) if self.saliency else None,
            position=listed.position,
            source=image.name,
        )

    def _mask(self, listed: Listed, image: StoredImage) -> np.ndarray | None:
        if not self.masks or listed.split not in self.masked_splits:
            return None
        name = self._mask_name(listed.key)
        labels, suffix = self._classes.stored, self.mask_suffix
        values = read_index_png(self.root, name, what="mask", image=image, mask_suffix=suffix, labels=labels)
        return self._classes.mask(values, name=name)

    def _mask_name(self, key: str) -> str:
        return f"{self.masks}/{key}{self.mask_suffix}.png"

    def _saliency_name(self, key: str) -> str:
        return f"{self.saliency}/{key}.png"

    def signature(self, *, masks: bool = True) -> str:
        """Hash of the tables and the classes, of which images exist, and of the folders and sizes of masks and saliency
        maps."""
        digest = hashlib.sha256(repr(self._classes.every.names).encode())
        for split in sorted(self.tables):
            labelled = self._labelled(split)
            digest.update(f"{split} {sha256_of(self.tables[split])}\n".encode())
            digest.update(b"".join(presence(self.root, (key + one.ending for key, one in labelled.items()))))
            if self.masks and split in self.masked_splits and (masks or self.boxes == "masks"):
                digest.update(self._sizes(self.masks, [self._mask_name(key) for key in labelled]))
            if self.saliency:
                digest.update(b"saliency" + self._sizes(self.saliency, [self._saliency_name(key) for key in labelled]))
        return digest.hexdigest()

    def _sizes(self, folder: str, names: Sequence[str]) -> bytes:
        """A folder and the sizes of its files: another folder has other maps, and a corrected one another size."""
        return f"{folder}\n".encode() + file_sizes(self.root, names).tobytes()
