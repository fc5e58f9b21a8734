"""ILSVRC DET as its archive unpacks: ILSVRC/{Annotations,Data,ImageSets}/DET.

    Data/DET/train/ILSVRC2013_train/<synset>/<synset>_<n>.JPEG         checked for few classes, the queried one first
    Data/DET/train/ILSVRC2013_train_extra0..10/ILSVRC2013_train_<n>.JPEG    negatives of few classes, without XML
    Data/DET/train/ILSVRC2014_train_0000..6/ILSVRC2014_train_<n>.JPEG  checked for all 200 classes
    Data/DET/{val,test}/<name>.JPEG                                    val: all 200 classes; test: no labels
    Annotations/DET/{train/...,val}/<same>.xml                         missing if an image shows no object
    ImageSets/DET/{train_1..train_200,val,test}.txt

Which classes an image was checked for: `train_<c>.txt` lists, for class c, images that contain it (1), images that
contain it with some objects not annotated (0), and images verified not to contain it (-1). If an image is not in the
list of a class, that class is unknown, unless the image is in the 2014 part. All classes in the XML are present.
Source: readme.txt of the ILSVRC2015 development kit, sections 1.3 and 2.2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from shards.records import BadSampleError, Box, Sample
from shards.sources.classes import ChosenClasses
from shards.sources.disk import StoredImage, file_sizes, folders, presence, read_image, read_keys, read_saliency, stems
from shards.sources.ilsvrc_lists import CheckedClasses, class_lists, read_class_lists
from shards.sources.pascal_xml import Annotation, read_annotation
from shards.sources.source import Listed, Listing
from shards.taxonomy import Taxonomy, ilsvrc_det_200, ilsvrc_det_synsets

SPLITS = ("train", "val", "test")
ENDING = ".JPEG"
_HASHED_AT_ONCE = 10_000
_SYNSETS = re.compile(r"ILSVRC2013(_DET)?_train/n\d{8}")
_EXTRA = re.compile(r"ILSVRC2013(_DET)?_train_extra\d+")
_FULL = re.compile(r"ILSVRC2014(_DET)?_train_\d+")
_EVERY_ID = frozenset(range(1, len(ilsvrc_det_200()) + 1))


@dataclass(frozen=True, kw_only=True)
class IlsvrcDetSource:
    """The training images are those on disk, sorted by path; the val and test images come from the lists.

    An image's key is its path below Data/DET/<split> without its file extension.
    """

    root: Path
    """The folder ILSVRC, or its parent folder."""
    splits: tuple[str, ...] = SPLITS
    """The splits that will be read; the signature covers these."""
    lists: Mapping[str, Path] = field(default_factory=dict)
    """Split -> file of keys, one per line, replacing the images on disk or the archive's own list."""
    boxes: Literal["none", "annotations"] = "none"
    """Boxes of objects: none, or from the XML (for the classes that an image was checked for)."""
    saliency: str = ""
    """Folder of saliency maps below the root: grey PNGs at <split>/<key>.png, not needed for every image; none if
    empty."""
    class_names: tuple[str, ...] = ()
    """A subset of the classes, numbered in this order; all 200 if empty."""
    _listings: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _classes(self) -> ChosenClasses:
        return ChosenClasses(every=ilsvrc_det_200(), names=self.class_names)

    @property
    def taxonomy(self) -> Taxonomy:
        return self._classes.taxonomy

    @cached_property
    def _base(self) -> Path:
        for base in (self.root, self.root / "ILSVRC"):
            if (base / "Data" / "DET").is_dir():
                return base
        raise ValueError(f"{self.root} contains no folder Data/DET or ILSVRC/Data/DET")

    def list_split(self, split: str) -> Listing:
        """One scan of the folders without looking at any file; the result is cached."""
        if split not in self._listings:
            self._listings[split] = tuple(self._keys(split))
        return Listing(split, self._listings[split])

    def _keys(self, split: str) -> list[str]:
        if split not in SPLITS:
            raise ValueError(f"ILSVRC DET has no split {split!r}; it has {', '.join(SPLITS)}")
        images, below = self._base / "Data" / "DET" / split, f"Data/DET/{split}"
        own = self._base / "ImageSets" / "DET" / f"{split}.txt"
        if split in self.lists:
            keys = read_keys(self.lists[split], split, below=below, columns=2)
        elif split == "train":
            keys = _on_disk(images)
        else:
            keys = read_keys(own, split, below=below, columns=2) if own.is_file() else stems(images, ending=ENDING)
        if not keys:
            raise ValueError(f"{images} contains no images ({ENDING})")
        if split != "test":
            self._refuse_lost_labels(split, {key.rpartition("/")[0] for key in keys})
        return keys

    def _refuse_lost_labels(self, split: str, of_images: Collection[str]) -> None:
        """Raise ValueError for images without an annotation folder: a missing XML would be read as "no object"."""
        for folder in sorted(of_images):
            if split == "train" and self._part(folder) == "extra":
                continue
            place = f"DET/{split}/{folder}".rstrip("/")
            if (self._base / "Data" / place).is_dir() and not (self._base / "Annotations" / place).is_dir():
                raise ValueError(
                    f"Annotations/{place} is missing below {self._base}, but its images exist: their labels would be "
                    "lost; unpack the annotations too"
                )

    @staticmethod
    @cache
    def _part(folder: str) -> Literal["synset", "extra", "full"]:
        """The part of the training set that a folder belongs to, which determines what its images were checked for."""
        if _SYNSETS.fullmatch(folder):
            return "synset"
        if _EXTRA.fullmatch(folder):
            return "extra"
        if _FULL.fullmatch(folder):
            return "full"
        raise ValueError(
            f"{folder!r} below Data/DET/train is not a folder of ILSVRC, so it is not known which classes its images "
            "were checked for; allowed are ILSVRC2013_train/<synset>, ILSVRC2013_train_extra<n> and "
            "ILSVRC2014_train_<n>"
        )

    def image_bytes(self, split: str) -> np.ndarray:
        """The only part of listing that accesses every file; not needed if shards are cut by number of samples."""
        return file_sizes(self._base / "Data" / "DET" / split, [f"{k}{ENDING}" for k in self.list_split(split).keys])

    def read(self, listed: Listed) -> Sample:
        image = read_image(self._base, f"Data/DET/{listed.split}/{listed.key}{ENDING}")
        annotation = read_annotation(self._base, f"Annotations/DET/{listed.split}/{listed.key}.xml")
        present = self._present(annotation)
        if listed.split == "test":
            unknown = _EVERY_ID - present
        elif listed.split == "val":
            unknown = frozenset()
        else:
            listed_present, unknown = self._checked_in_train(listed, present, annotation)
            present |= listed_present
        return Sample(
            key=listed.key,
            encoded=image.encoded,
            size=image.size,
            classes=self._classes.ids(present),
            unknown=self._classes.ids(unknown),
            boxes=self._boxes(annotation, image, complete=not unknown),
            saliency=read_saliency(self.root, self._saliency_name(listed), image=image) if self.saliency else None,
            position=listed.position,
            source=image.name,
        )

    @staticmethod
    def _present(annotation: Annotation | None) -> set[int]:
        """Full ids of the objects in the XML."""
        present = set()
        for name, _ in annotation.objects if annotation else ():
            if name not in ilsvrc_det_synsets():
                raise BadSampleError(f"label {name!r} is not the synset of one of the 200 classes")
            present.add(ilsvrc_det_synsets()[name])
        return present

    def _checked_in_train(
        self, listed: Listed, present: set[int], annotation: Annotation | None
    ) -> tuple[set[int], frozenset[int]]:
        """Full ids of classes that the lists give as present, and of classes that are unknown."""
        folder = listed.key.rpartition("/")[0]
        part = self._part(folder)
        if part == "full":
            return set(), frozenset()
        in_lists, absent = self._checked.of_image(listed.position)
        queried = ilsvrc_det_synsets().get(folder.rpartition("/")[2])
        if part == "synset" and annotation is not None and queried is not None:
            absent.add(queried)
        return in_lists, _EVERY_ID - present - in_lists - absent

    @cached_property
    def _checked(self) -> CheckedClasses:
        return read_class_lists(self._base / "ImageSets" / "DET", self.list_split("train").keys)

    def _boxes(self, annotation: Annotation | None, image: StoredImage, *, complete: bool) -> tuple[Box, ...] | None:
        if self.boxes == "none":
            return None
        if annotation is None:
            return () if complete else None
        # ILSVRC counts pixels from 0.
        return annotation.boxes(self._ids_of_synsets, first=0, image=image)

    @cached_property
    def _ids_of_synsets(self) -> dict[str, int]:
        ids = {wnid: self._classes.id_of(full_id) for wnid, full_id in ilsvrc_det_synsets().items()}
        return {wnid: class_id for wnid, class_id in ids.items() if class_id is not None}

    def _saliency_name(self, listed: Listed) -> str:
        return f"{self.saliency}/{listed.split}/{listed.key}.png"

    def signature(self, *, masks: bool = True) -> str:
        """Hash of every split's keys, of which images and annotations exist, and of the sizes of the class lists.

        Only names are used: accessing each of 800,000 files would take minutes on a network disk. A file that is fixed
        in place is therefore not noticed: delete the layer that recorded it as missing.
        """
        return self._signature

    @cached_property
    def _signature(self) -> str:
        digest = hashlib.sha256()
        for split in self.splits:
            keys = self.list_split(split).keys
            images = (f"Data/DET/{split}/{key}{ENDING}" for key in keys)
            annotations = (f"Annotations/DET/{split}/{key}.xml" for key in keys)
            digest.update(f"{split} {len(keys)}\n".encode())
            for start in range(0, len(keys), _HASHED_AT_ONCE):
                digest.update("".join(f"{key}\n" for key in keys[start : start + _HASHED_AT_ONCE]).encode())
            digest.update(b"".join(presence(self._base, images)))
            digest.update(b"".join(presence(self._base, annotations)))
            if self.saliency:
                names = map(self._saliency_name, self.list_split(split))
                digest.update(f"saliency {self.saliency}\n".encode() + b"".join(presence(self.root, names)))
        if "train" in self.splits:
            for path in class_lists(self._base / "ImageSets" / "DET"):
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()


def _on_disk(images: Path) -> list[str]:
    """The images in a folder and up to two levels of subfolders, sorted."""
    tops = folders(images)
    inner = [f"{top}/{name}" for top in tops for name in folders(images / top)]
    return sorted(
        f"{folder}/{name}".lstrip("/")
        for folder in ("", *tops, *inner)
        for name in stems(images / folder, ending=ENDING)
    )
