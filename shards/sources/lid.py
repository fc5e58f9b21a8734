"""Track 1 of the LID challenge: the training images of ILSVRC DET, and a package of images for val and test.

    LID_track1_imageset/LID_track1/{val,test}/<name>.JPEG
    {val,test}.txt                            one name per line; in the package or a folder on the path to the images
    LID_track1_annotations/track1_val_annotations_raw/<name>.png   masks: grey indices
    LID_track1_annotations/track1_val_annotations/<name>.png       the same masks with VOC's palette
    LID_track1_annotations/cat_ref.txt        "<id> <name>" of the 200 classes

Both encodings of the masks store class ids: 0 background, 1..200, 255 ambiguous. If both exist, the grey one is read.
The test split has neither masks nor labels: every class is unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from shards.boxes import boxes_of_mask
from shards.label_type import BACKGROUND
from shards.records import IGNORE, Sample
from shards.sources.classes import ChosenClasses
from shards.sources.disk import file_sizes, presence, read_image, read_index_png, read_keys, read_saliency, stems
from shards.sources.ilsvrc_det import ENDING, IlsvrcDetSource
from shards.sources.source import Listed, Listing
from shards.taxonomy import Taxonomy, ilsvrc_det_200

SPLITS = ("train", "val", "test")
_IMAGES = ("LID_track1_imageset/LID_track1", "LID_track1", "LID_track1_imageset", "")
_LISTS = ("", "LID_track1_imageset", "LID_track1_imageset/LID_track1", "LID_track1")
_ANNOTATIONS = (
    "LID_track1_annotations",
    "LID_track1_imageset/LID_track1_annotations",
    "LID_track1_imageset/LID_track1/LID_track1_annotations",
    "LID_track1/LID_track1_annotations",
    "",
)
_MASKS = ("track1_val_annotations_raw", "track1_val_annotations")


@dataclass(frozen=True, kw_only=True)
class LidSource:
    """Keys of val and test are the image names, keys of train are those of ILSVRC DET."""

    package: Path
    """The folder that contains LID_track1_imageset and LID_track1_annotations."""
    train: IlsvrcDetSource | None
    """ILSVRC DET; None if the train split is not requested."""
    splits: tuple[str, ...] = SPLITS
    """The splits that will be read; the signature covers these."""
    lists: Mapping[str, Path] = field(default_factory=dict)
    """val, test -> file of names, one per line, replacing the package's own list."""
    val_labels: Literal["masks", "unknown"] = "masks"
    """Image-level labels of val: the classes in its masks, or unknown, as for test."""
    masked_splits: tuple[str, ...] = ("val",)
    """Splits whose masks are read; only val has masks."""
    boxes: Literal["none", "annotations", "masks"] = "none"
    """Boxes: none, from ILSVRC's XML for train, or from the connected components of val's masks."""
    saliency: str = ""
    """Folder of saliency maps of val and test below the package, at <split>/<key>.png; those of train are ILSVRC DET's.
    None if empty."""
    class_names: tuple[str, ...] = ()
    """A subset of the classes, numbered in this order; all 200 if empty."""
    other_classes_as: int = BACKGROUND
    """Value of mask pixels of classes outside the subset: 0 or 255."""
    _listings: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _classes(self) -> ChosenClasses:
        return ChosenClasses(every=ilsvrc_det_200(), names=self.class_names, other_classes_as=self.other_classes_as)

    @property
    def taxonomy(self) -> Taxonomy:
        return self._classes.taxonomy

    def list_split(self, split: str) -> Listing:
        if split == "train" and self.train is not None:
            return self.train.list_split(split)
        if split not in SPLITS:
            raise ValueError(f"LID has no split {split!r}; it has {', '.join(SPLITS)}")
        if split not in self._listings:
            _refuse_other_order(self.package)
            self._listings[split] = tuple(self._keys(split))
        return Listing(split, self._listings[split])

    def _keys(self, split: str) -> list[str]:
        images = self.package / self._images(split)
        if split in self.lists:
            return read_keys(self.lists[split], split, below=split)
        folders = (*_LISTS, self._images(split))
        found = [path for path in dict.fromkeys(self.package / f / f"{split}.txt" for f in folders) if path.is_file()]
        if not found:
            if keys := stems(images, ending=ENDING):
                return keys
            raise ValueError(f"{images} contains no images ({ENDING}), and there is no {split}.txt")
        lists = [read_keys(path, split, below=split) for path in found]
        for path, keys in zip(found, lists, strict=True):
            if keys != lists[0]:
                raise ValueError(f"{found[0]} and {path} list different images; set lists.{split} to the right one")
        return lists[0]

    def _images(self, split: str) -> str:
        """The folder of a split's images below the package."""
        for place in _IMAGES:
            if (self.package / place / split).is_dir():
                return f"{place}/{split}".lstrip("/")
        raise ValueError(f"{self.package} contains no folder LID_track1_imageset/LID_track1/{split} with the images")

    @cached_property
    def _masks(self) -> str:
        """The folder of val's masks below the package."""
        for masks in _MASKS:
            for place in _ANNOTATIONS:
                if (self.package / place / masks).is_dir():
                    return f"{place}/{masks}".lstrip("/")
        raise ValueError(
            f"{self.package} contains no folder LID_track1_annotations/{_MASKS[0]} or .../{_MASKS[1]} with val's masks"
        )

    @property
    def _reads_masks(self) -> bool:
        return "val" in self.masked_splits or self.val_labels == "masks"

    def image_bytes(self, split: str) -> np.ndarray:
        if split == "train" and self.train is not None:
            return self.train.image_bytes(split)
        return file_sizes(self.package / self._images(split), [f"{k}{ENDING}" for k in self.list_split(split).keys])

    def read(self, listed: Listed) -> Sample:
        if listed.split == "train" and self.train is not None:
            return self.train.read(listed)
        image = read_image(self.package, f"{self._images(listed.split)}/{listed.key}{ENDING}")
        mask: np.ndarray | None = None
        classes: tuple[int, ...] = ()
        unknown = self._classes.all_ids
        if listed.split == "val" and self._reads_masks:
            name = f"{self._masks}/{listed.key}.png"
            mask = self._classes.mask(read_index_png(self.package, name, what="mask", image=image), name=name)
            if self.val_labels == "masks":
                classes = tuple(c for c in np.unique(mask).tolist() if c not in (BACKGROUND, IGNORE))
                unknown = ()
        kept = mask if listed.split in self.masked_splits else None
        return Sample(
            key=listed.key,
            encoded=image.encoded,
            size=image.size,
            classes=classes,
            unknown=unknown,
            mask=kept,
            saliency=read_saliency(self.package, self._saliency_name(listed), image=image) if self.saliency else None,
            boxes=boxes_of_mask(kept) if self.boxes == "masks" and kept is not None else None,
            position=listed.position,
            source=image.name,
        )

    def _saliency_name(self, listed: Listed) -> str:
        return f"{self.saliency}/{listed.split}/{listed.key}.png"

    def signature(self, *, masks: bool = True) -> str:
        """Hash of every split's keys and of which images and masks exist; from names only, as for ILSVRC DET."""
        digest = hashlib.sha256()
        if "train" in self.splits and self.train is not None:
            digest.update(self.train.signature().encode())
        for split in self.splits:
            if split == "train":
                continue
            keys, folder = self.list_split(split).keys, self._images(split)
            digest.update(f"{split} {len(keys)}\n".encode())
            for key in keys:
                digest.update(f"{key}\n".encode())
            digest.update(b"".join(presence(self.package, (f"{folder}/{key}{ENDING}" for key in keys))))
            if self.saliency:
                names = map(self._saliency_name, self.list_split(split))
                digest.update(f"saliency {self.saliency}\n".encode() + b"".join(presence(self.package, names)))
            if split == "val" and self._reads_masks and (masks or "masks" in (self.boxes, self.val_labels)):
                digest.update(f"{Path(self._masks).name}\n".encode())
                digest.update(b"".join(presence(self.package, (f"{self._masks}/{key}.png" for key in keys))))
        return digest.hexdigest()


def _refuse_other_order(package: Path) -> None:
    """Raise ValueError if the package's cat_ref.txt has other class ids than ILSVRC DET."""
    for path in (package / place / "cat_ref.txt" for place in _ANNOTATIONS):
        if not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8-sig", "replace")
        for number, line in enumerate(text.splitlines(), start=1):
            class_id, name = (*line.split(None, 1), "", "")[:2]
            if class_id in ("", "0"):
                continue
            known = class_id.isdecimal() and int(class_id) <= len(ilsvrc_det_200())
            expected = ilsvrc_det_200().name_of(int(class_id)) if known else "no class"
            if _plain(name) != _plain(expected):
                raise ValueError(
                    f"{path}, line {number}: {line.strip()[:80]!r}, but class {class_id} of ILSVRC DET is {expected}; "
                    "masks with another order of classes would be misread"
                )


def _plain(name: str) -> str:
    return "_".join(name.replace("_", " ").lower().split())
