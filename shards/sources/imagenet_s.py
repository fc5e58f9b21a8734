"""ImageNet-S: 50, 300 or 919 classes of ImageNet, with masks for evaluation (1,183,322 training images of 919 classes).

    train/<wnid>/<name>.JPEG                       labelled by their folder; no masks
    train-semi-segmentation/<wnid>/<name>.png      masks of 10 training images per class, if downloaded
    validation/<wnid>/<name>.JPEG                  labelled by their folder
    validation-segmentation/<wnid>/<name>.png      masks
    test/<wnid>/<name>.JPEG                        neither labels nor masks may be used: every class is unknown

Class ids number the folders in alphabetical order, from 1. Masks are RGB PNGs: a class id is R + 256 G, 0 is any other
category, 1000 is ignored (`shards/id_colours.py`). ImageNet labels an image with one class; all others count as absent.

Source: README.md and datapreparation/ of LUSSeg/ImageNet-S, commit b2312ba7; Gao et al., "Large-scale Unsupervised
Semantic Segmentation", TPAMI 2022.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from shards.boxes import boxes_of_mask
from shards.id_colours import IGNORED, MAX_CLASSES, decode_id_png
from shards.label_type import BACKGROUND
from shards.records import BadSampleError, Sample
from shards.sources.classes import ChosenClasses
from shards.sources.disk import (
    StoredImage,
    file_sizes,
    fitted,
    folders,
    presence,
    read_file,
    read_image,
    read_keys,
    read_saliency,
    stems,
    words,
)
from shards.sources.neighbours import beside
from shards.sources.source import Listed, Listing
from shards.taxonomy import Taxonomy

ENDING = ".JPEG"
FOLDERS: Mapping[str, str] = {"train": "train", "val": "validation", "test": "test"}
"""Split -> folder of its images."""
_WNID = re.compile(r"n\d{8}")
_MASKS: Mapping[str, str] = {"train": "train-semi-segmentation", "val": "validation-segmentation"}


@dataclass(frozen=True, kw_only=True)
class ImagenetSSource:
    """A folder ImageNetS50, ImageNetS300 or ImageNetS919; keys are <wnid>/<name>."""

    root: Path
    splits: tuple[str, ...] = tuple(FOLDERS)
    """The splits that will be read; the signature covers these."""
    lists: Mapping[str, Path] = field(default_factory=dict)
    """Split -> file of keys, one per line, with or without .JPEG; without a list, all images of the folder."""
    class_list: Path | None = None
    """File of lines `<wnid> <name>, <synonym>, ...`, such as ImageNet's LOC_synset_mapping.txt; it may list more
    classes. Without it, classes are called by their wnid."""
    masked_splits: tuple[str, ...] = ("train", "val")
    """Splits whose masks are read. A training image without one is read without it."""
    boxes: Literal["none", "masks"] = "none"
    """Boxes of objects: none, or from the connected components of the masks that are read."""
    saliency: str = ""
    """Folder of saliency maps below the root, at <folder of the split>/<key>.png; none if empty."""
    class_names: tuple[str, ...] = ()
    """A subset of the classes, numbered in this order; all of them if empty."""
    other_classes_as: int = BACKGROUND
    """Value of mask pixels of classes outside the subset: 0, or any other number for ignored."""
    _listings: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def wnids(self) -> tuple[str, ...]:
        """The folders of validation, or without it of the first split there is. Raises ValueError if they differ."""
        # Other folders, such as those that an archive of macOS leaves, have no id.
        found = {
            name: [one for one in folders(self.root / name) if _WNID.fullmatch(one)]
            for name in ("validation", "train", "test")
        }
        complete = next((name for name in found if found[name]), "")
        if not complete:
            raise ValueError(f"{self.root} has no folders of classes in validation, train or test")
        for name, wnids in found.items():
            if others := sorted(set(wnids) - set(found[complete])):
                raise ValueError(
                    f"{self.root / name} has a folder {others[0]} ({len(others)} such) that {self.root / complete} "
                    "lacks; ids number the folders, so all splits must be of the same variant (50, 300 or 919 classes)"
                )
        if len(found[complete]) > MAX_CLASSES:
            raise ValueError(
                f"{self.root / complete} has {len(found[complete])} folders; allowed are at most {MAX_CLASSES}, "
                f"since {IGNORED} is the id of ignored pixels"
            )
        return tuple(found[complete])

    @cached_property
    def _classes(self) -> ChosenClasses:
        names = Taxonomy(self._names())
        return ChosenClasses(every=names, names=self.class_names, other_classes_as=self.other_classes_as)

    def _names(self) -> tuple[str, ...]:
        """The class names in the order of the wnids; of several classes with one name, with the wnid in parentheses."""
        if self.class_list is None:
            return self.wnids
        named = _read_names(self.class_list)
        if lacking := [wnid for wnid in self.wnids if wnid not in named]:
            raise ValueError(f"{self.class_list} does not list the class {lacking[0]} ({len(lacking)} such)")
        times = Counter(named[wnid] for wnid in self.wnids)
        return tuple(named[wnid] if times[named[wnid]] == 1 else f"{named[wnid]} ({wnid})" for wnid in self.wnids)

    @property
    def taxonomy(self) -> Taxonomy:
        return self._classes.taxonomy

    @cached_property
    def _full_ids(self) -> dict[str, int]:
        return {wnid: number for number, wnid in enumerate(self.wnids, start=1)}

    def list_split(self, split: str) -> Listing:
        if split not in FOLDERS:
            raise ValueError(f"ImageNet-S has no split {split!r}; it has {', '.join(FOLDERS)}")
        if split not in self._listings:
            self._listings[split] = tuple(self._keys(split))
        return Listing(split, self._listings[split])

    def _keys(self, split: str) -> list[str]:
        folder = FOLDERS[split]
        if split in self.lists:
            listed = read_keys(self.lists[split], split, below=folder, columns=2)
            keys = [key.removesuffix(ENDING) for key in listed]
            if odd := [key for key in keys if key.partition("/")[0] not in self._full_ids or "/" not in key]:
                raise ValueError(
                    f"the list of split {split!r} names {odd[0]!r}, which is in no folder of a class; write "
                    f"<wnid>/<name>: {self.lists[split]}"
                )
            return keys
        keys = [f"{wnid}/{name}" for wnid in self.wnids for name in stems(self.root / folder / wnid, ending=ENDING)]
        if not keys:
            raise ValueError(f"{self.root / folder} has no images <wnid>/<name>{ENDING}")
        return keys

    def image_bytes(self, split: str) -> np.ndarray:
        return file_sizes(self.root, [self._image(split, key) for key in self.list_split(split).keys])

    @staticmethod
    def _image(split: str, key: str) -> str:
        return f"{FOLDERS[split]}/{key}{ENDING}"

    def read(self, listed: Listed) -> Sample:
        image = read_image(self.root, self._image(listed.split, listed.key))
        mask, saliency = self._mask(listed, image), self._saliency_name(listed.split, listed.key)
        is_test = listed.split == "test"
        return Sample(
            key=listed.key,
            encoded=image.encoded,
            size=image.size,
            classes=() if is_test else self._classes.ids((self._full_ids[listed.key.partition("/")[0]],)),
            unknown=self._classes.all_ids if is_test else (),
            mask=mask,
            boxes=boxes_of_mask(mask) if self.boxes == "masks" and mask is not None else None,
            saliency=read_saliency(self.root, saliency, image=image) if self.saliency else None,
            position=listed.position,
            source=image.name,
        )

    @cached_property
    def _training_masks(self) -> frozenset[str]:
        """Keys of the training images with a mask, with one scan of each folder."""
        folder = self.root / _MASKS["train"]
        return frozenset(f"{wnid}/{name}" for wnid in folders(folder) for name in stems(folder / wnid, ending=".png"))

    def _mask_name(self, split: str, key: str) -> str:
        """The path of a mask; empty if the image needs none."""
        if split not in self.masked_splits or split not in _MASKS:
            return ""
        return "" if split == "train" and key not in self._training_masks else f"{_MASKS[split]}/{key}.png"

    def _mask(self, listed: Listed, image: StoredImage) -> np.ndarray | None:
        if not (name := self._mask_name(listed.split, listed.key)):
            return None
        try:
            ids_HW = decode_id_png(read_file(self.root, name))
        except (OSError, ValueError) as error:
            there = beside(self.root, name) if isinstance(error, FileNotFoundError) else ""
            raise BadSampleError(f"cannot read the mask {name}: {words(error)}{there}") from error
        ignored_HW = ids_HW == IGNORED
        ids_HW[ignored_HW] = BACKGROUND
        if (highest := int(ids_HW.max(initial=0))) > len(self.wnids):
            raise BadSampleError(
                f"the mask {name} holds the class id {highest}; allowed are 0..{len(self.wnids)} and {IGNORED}, ignored"
            )
        values_HW = ids_HW.astype(self._classes.stored.dtype)
        values_HW[ignored_HW] = self._classes.stored.ignore
        return self._classes.mask(fitted(values_HW, name=f"the mask {name}", image=image), name=name)

    def _saliency_name(self, split: str, key: str) -> str:
        return f"{self.saliency}/{FOLDERS[split]}/{key}.png"

    def signature(self, *, masks: bool = True) -> str:
        """Hash of the classes and every split's keys, and of which images and masks exist; no image is opened."""
        digest = hashlib.sha256(repr((self.wnids, self._classes.every.names)).encode())
        for split in sorted(self.splits):
            keys = self.list_split(split).keys
            digest.update(f"{split} {len(keys)}\n".encode())
            digest.update("".join(f"{key}\n" for key in keys).encode())
            digest.update(b"".join(presence(self.root, (self._image(split, key) for key in keys))))
            if masks or self.boxes == "masks":
                names = [name for key in keys if (name := self._mask_name(split, key))]
                digest.update("".join(names).encode() + b"".join(presence(self.root, names)))
            if self.saliency:
                names = [self._saliency_name(split, key) for key in keys]
                digest.update(f"saliency {self.saliency}\n".encode() + b"".join(presence(self.root, names)))
        return digest.hexdigest()


def _read_names(path: Path) -> dict[str, str]:
    """wnid -> name, from lines `<wnid> <name>, <synonym>, ...`; a line without a name is called by its wnid."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    named: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not (text := line.strip()):
            continue
        wnid, _, names = text.partition(" ")
        if wnid in named:
            raise ValueError(f"{path}, line {number}: {wnid} is listed twice")
        named[wnid] = names.partition(",")[0].strip() or wnid
    return named
