"""The layout of PASCAL VOC's devkit: JPEGImages, SegmentationClassAug or SegmentationClass, Annotations, ImageSets.

Image-level labels come from a JSON file if one is given, else from the objects in the XML annotations (including
difficult ones, since they are visible in the image). Masks are never used as image-level labels. The JSON file is
`{key: [names]}`, or `{key: {"present": [names], "unknown": [names]}}` for images with unchecked classes.
Masks are index PNGs; if a copy of SBD is given, masks missing from the mask folder are read from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np

from shards.boxes import boxes_of_mask
from shards.label_type import BACKGROUND
from shards.records import BadSampleError, Box, Sample
from shards.sources.classes import ChosenClasses
from shards.sources.disk import StoredImage, file_sizes, fitted, read_image, read_index_png, read_keys, read_saliency
from shards.sources.pascal_xml import Annotation, read_annotation
from shards.sources.sbd import read_sbd_mask, sbd_masks
from shards.sources.source import Listed, Listing
from shards.taxonomy import VOC_20, Taxonomy


@dataclass(frozen=True, kw_only=True)
class VocSource:
    """A data set in VOC's layout. Lists have one key per line; masks are index PNGs with VOC's class ids."""

    root: Path
    lists: dict[str, Path]
    """Split -> file of keys, one per line."""
    labels: Path | None
    """JSON file of image-level labels; None reads the XML annotations."""
    masks: str
    """Folder of masks below the root."""
    masked_splits: tuple[str, ...]
    """Splits whose masks are read."""
    class_names: tuple[str, ...] = ()
    """A subset of VOC's classes, numbered in this order; all 20 if empty."""
    other_classes_as: int = BACKGROUND
    """Value of mask pixels of classes outside the subset: 0 or 255."""
    boxes: Literal["none", "annotations", "masks"] = "none"
    """Boxes of objects: none, from the XML annotations, or from the connected components of the masks that are read.

    For an image without an annotation, or without a mask, the boxes are not known.
    """
    saliency: str = ""
    """Folder of saliency maps (grey PNGs of the images' sizes) below the root, not needed for every image; none if
    empty."""
    mask_suffix: str = ""
    """Inserted between a mask's key and its extension: with _mask, the mask is 2007_000032_mask.png."""
    sbd: Path | None = None
    """Folder of SBD, whose masks replace those missing from `masks`."""
    partly_masked: bool = False
    """True: an image of `masked_splits` without a mask file is read without a mask; else it cannot be read."""

    @cached_property
    def _classes(self) -> ChosenClasses:
        return ChosenClasses(every=VOC_20, names=self.class_names, other_classes_as=self.other_classes_as)

    @property
    def taxonomy(self) -> Taxonomy:
        return self._classes.taxonomy

    def list_split(self, split: str) -> Listing:
        if split not in self.lists:
            raise ValueError(f"no list for split {split!r}; lists are given for {sorted(self.lists)}")
        return Listing(split, read_keys(self.lists[split], split, below="JPEGImages"))

    def image_bytes(self, split: str) -> np.ndarray:
        return file_sizes(self.root, [f"JPEGImages/{listed.key}.jpg" for listed in self.list_split(split)])

    def read(self, listed: Listed) -> Sample:
        key, image = listed.key, read_image(self.root, f"JPEGImages/{listed.key}.jpg")
        mask = self._mask(key, image) if listed.split in self.masked_splits else None
        saliency = read_saliency(self.root, f"{self.saliency}/{key}.png", image=image) if self.saliency else None
        present, unknown = self._labels(key)
        return Sample(
            key=key,
            encoded=image.encoded,
            size=image.size,
            classes=present,
            unknown=unknown,
            mask=mask,
            boxes=self._boxes(key, mask, image),
            saliency=saliency,
            position=listed.position,
            source=image.name,
        )

    def _labels(self, key: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of the present and of the unknown classes, ascending."""
        present: list[str]
        unknown: list[str] = []
        if self.labels is None:
            present = [name for name, _ in self._annotation(key).objects]
        elif key in self._label_file:
            present, unknown = self._label_file[key]
        else:
            raise BadSampleError(f"no image-level labels for {key!r} in {self.labels.name}")
        if others := sorted({*present, *unknown} - set(VOC_20.names)):
            raise BadSampleError(f"label {others[0]!r} is not in the class list")
        if both := sorted(set(present) & set(unknown)):
            raise BadSampleError(f"{both[0]!r} is both present and unknown")
        return self._ids(present), self._ids(unknown)

    def _ids(self, names: Iterable[str]) -> tuple[int, ...]:
        return self._classes.ids(VOC_20.id_of(name) for name in names)

    @cached_property
    def _label_file(self) -> dict[str, tuple[list[str], list[str]]]:
        assert self.labels is not None
        if not self.labels.exists():
            raise ValueError(f"the file of image-level labels does not exist: {self.labels}")
        try:
            found = json.loads(self.labels.read_bytes())
        except ValueError as error:
            raise ValueError(f"the file of image-level labels is not valid JSON: {self.labels}: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"the file of image-level labels must have the form {{key: [names]}}: {self.labels}")
        return {key: self._label_entry(key, value) for key, value in found.items()}

    def _label_entry(self, key: str, value: object) -> tuple[list[str], list[str]]:
        entry = value if isinstance(value, dict) else {"present": value}
        present, unknown = entry.get("present"), entry.get("unknown", [])
        others = set(entry) - {"present", "unknown"}
        if others or not _is_list_of_names(present) or not _is_list_of_names(unknown):
            raise ValueError(
                f"{self.labels}: the labels of {key!r} are {value!r}; write a list of class names, or "
                '{"present": [names], "unknown": [names]}'
            )
        return present, unknown

    def _annotation(self, key: str) -> Annotation:
        name = f"Annotations/{key}.xml"
        if (found := read_annotation(self.root, name)) is None:
            raise BadSampleError(f"cannot read the labels in {name}: No such file or directory")
        return found

    def _boxes(self, key: str, mask: np.ndarray | None, image: StoredImage) -> tuple[Box, ...] | None:
        if self.boxes == "none":
            return None
        if self.boxes == "masks":
            return None if mask is None else boxes_of_mask(mask)
        # VOC counts pixels from 1.
        ids = {name: class_id for class_id, name in enumerate(self.taxonomy.names, start=1)}
        annotation = read_annotation(self.root, f"Annotations/{key}.xml")
        return None if annotation is None else annotation.boxes(ids, first=1, image=image)

    def _mask(self, key: str, image: StoredImage) -> np.ndarray | None:
        name = self._mask_name(key)
        if (self.sbd is not None or self.partly_masked) and not (self.root / name).is_file():
            name = f"{key}.mat"
            file = None if self.sbd is None else sbd_masks(self.sbd) / name
            if file is None or (self.partly_masked and not file.is_file()):
                return None
            raw = fitted(read_sbd_mask(file), name=f"the mask {name} of SBD", image=image)
        else:
            raw = read_index_png(self.root, name, what="mask", image=image, mask_suffix=self.mask_suffix)
        return self._classes.mask(raw, name=name)

    def _mask_name(self, key: str) -> str:
        return f"{self.masks}/{key}{self.mask_suffix}.png"

    def signature(self, *, masks: bool = True) -> str:
        """Hash of the lists, of the label file or the XML annotations, and of the size of every image and mask."""
        digest = hashlib.sha256()
        for split in sorted(self.lists):
            for listed in self.list_split(split):
                image = self.root / "JPEGImages" / f"{listed.key}.jpg"
                mask = self.root / self._mask_name(listed.key)
                files = [image, mask] if masks or self.boxes == "masks" else [image]
                if self.saliency:
                    files.append(self.root / self.saliency / f"{listed.key}.png")
                if self.sbd is not None and mask in files:
                    files.append(sbd_masks(self.sbd) / f"{listed.key}.mat")
                sizes = [path.stat().st_size if path.exists() else -1 for path in files]
                digest.update(f"{split} {listed.key} {sizes}\n".encode())
                annotation = self.root / "Annotations" / f"{listed.key}.xml"
                if (self.labels is None or self.boxes == "annotations") and annotation.is_file():
                    digest.update(annotation.read_bytes())
        if self.labels is not None:
            _ = self._label_file  # raises if it has another format
            digest.update(self.labels.read_bytes())
        return digest.hexdigest()


def _is_list_of_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
