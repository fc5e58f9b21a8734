"""The layout of PASCAL VOC's devkit: JPEGImages, SegmentationClassAug or SegmentationClass, Annotations, ImageSets.

Image-level labels come from a JSON file `{key: [names]}` where one is given, else from the objects of the XML
annotations (difficult ones included: they are visible in the image). Masks never serve as image-level labels.
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from shards.boxes import boxes_of_mask, inside
from shards.images import decode_image, decode_index_png
from shards.records import BACKGROUND, IGNORE, BadSampleError, Box, Sample
from shards.sources.source import Listed
from shards.taxonomy import VOC_20, Taxonomy

_KEY_PART = re.compile(r"[^\s/\\\x00-\x1f]{1,200}")


@dataclass(frozen=True, kw_only=True)
class VocSource:
    """A data set in VOC's layout. Lists hold one key a line; masks are index PNGs with VOC's ids."""

    root: Path
    lists: dict[str, Path]
    """Split -> file of keys, one a line."""
    labels: Path | None
    """JSON file of image-level labels; None reads the XML annotations."""
    masks: str
    """Folder of masks below the root."""
    masked_splits: tuple[str, ...]
    """Splits whose masks are read at all."""
    class_names: tuple[str, ...] = ()
    """A subset of VOC's classes, numbered in this order; all 20 where empty."""
    other_classes_as: int = BACKGROUND
    """What pixels of classes outside the subset become: 0 or 255."""
    boxes: Literal["none", "annotations", "masks"] = "none"
    """Frames of objects: none, those of the XML annotations, or of the components of the masks that are read."""
    saliency: str = ""
    """Folder of saliency maps (grey PNGs of the images' sizes) below the root; none where empty."""

    @property
    def taxonomy(self) -> Taxonomy:
        return VOC_20.subset(self.class_names)

    def list_split(self, split: str) -> list[Listed]:
        path = self.lists.get(split)
        if path is None:
            raise ValueError(f"no list for split {split!r}; lists are given for {sorted(self.lists)}")
        if not path.is_file():
            raise ValueError(f"the list of split {split!r} does not exist: {path}")
        keys = _read_keys(path, split)
        if len(set(keys)) < len(keys):
            twice = next(key for key, count in Counter(keys).items() if count > 1)
            raise ValueError(f"the list of split {split!r} names {twice!r} more than once: {path}")
        return [Listed(key=key, split=split, position=position) for position, key in enumerate(keys)]

    def read(self, listed: Listed) -> Sample:
        path = self.root / "JPEGImages" / f"{listed.key}.jpg"
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise BadSampleError(f"cannot read {path.relative_to(self.root)}: {_words(error)}") from error
        try:
            height, width = decode_image(encoded).shape[:2]
        except ValueError as error:
            raise BadSampleError(f"{path.relative_to(self.root)}: {error}") from error
        mask = self._mask(listed.key, (height, width)) if listed.split in self.masked_splits else None
        return Sample(
            key=listed.key,
            encoded=encoded,
            size=(height, width),
            classes=self._classes(listed.key),
            mask=mask,
            boxes=self._boxes(listed.key, mask, (height, width)),
            saliency=self._saliency(listed.key, (height, width)),
            position=listed.position,
            source=str(path.relative_to(self.root)),
        )

    def _classes(self, key: str) -> tuple[int, ...]:
        names = self._label_file[key] if self.labels and key in self._label_file else None
        if self.labels is None:
            names = self._names_from_xml(key)
        if names is None:
            raise BadSampleError(f"no image-level labels for {key!r} in {self.labels}")
        if unknown := sorted(set(names) - set(VOC_20.names)):
            raise BadSampleError(f"label {unknown[0]!r} is not in the class list")
        wanted = self.taxonomy.names
        return tuple(sorted({wanted.index(name) + 1 for name in names if name in wanted}))

    @cached_property
    def _label_file(self) -> dict[str, list[str]]:
        assert self.labels is not None
        if not self.labels.exists():
            raise ValueError(f"the file of image-level labels does not exist: {self.labels}")
        try:
            found = json.loads(self.labels.read_bytes())
        except ValueError as error:
            raise ValueError(f"the file of image-level labels is not valid JSON: {self.labels}: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"the file of image-level labels must hold {{key: [names]}}: {self.labels}")
        for key, names in found.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{self.labels}: the labels of {key!r} are {names!r}; write a list of class names")
        return found

    def _names_from_xml(self, key: str) -> list[str]:
        return [found.findtext("name") or "" for found in self._annotated(key)]

    def _annotated(self, key: str) -> list[ElementTree.Element]:
        """The objects of the XML annotation."""
        path = self.root / "Annotations" / f"{key}.xml"
        try:
            return ElementTree.parse(path).findall("object")
        except (OSError, ElementTree.ParseError) as error:
            raise BadSampleError(f"cannot read the labels in {path.relative_to(self.root)}: {_words(error)}") from error

    def _boxes(self, key: str, mask: np.ndarray | None, size: tuple[int, int]) -> tuple[Box, ...] | None:
        if self.boxes == "none":
            return None
        if self.boxes == "masks":
            return None if mask is None else boxes_of_mask(mask)
        wanted = self.taxonomy.names
        named = [(found.findtext("name"), found) for found in self._annotated(key)]
        boxes = [_box_of(found, wanted.index(name) + 1) for name, found in named if name in wanted]
        return inside(boxes, size=size)

    def _saliency(self, key: str, size: tuple[int, int]) -> np.ndarray | None:
        return (
            self._index_png(self.root / self.saliency / f"{key}.png", "saliency map", size) if self.saliency else None
        )

    def _index_png(self, path: Path, what: str, size: tuple[int, int]) -> np.ndarray:
        name = path.relative_to(self.root)
        try:
            raw = decode_index_png(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BadSampleError(f"cannot read the {what} {name}: {_words(error)}") from error
        if raw.shape != size:
            raise BadSampleError(f"the {what} {name} is {raw.shape[1]}x{raw.shape[0]}, its image {size[1]}x{size[0]}")
        return raw

    def _mask(self, key: str, size: tuple[int, int]) -> np.ndarray:
        path = self.root / self.masks / f"{key}.png"
        name, raw = path.relative_to(self.root), self._index_png(path, "mask", size)
        known = self._mask_ids
        if (known[raw] < 0).any():
            bad = sorted(set(np.unique(raw[known[raw] < 0]).tolist()))
            raise BadSampleError(f"the mask {name} holds the value {bad[0]}, which is no class (0..20 and 255 are)")
        return known[raw].astype(np.uint8)

    @cached_property
    def _mask_ids(self) -> np.ndarray:
        """VOC's mask value -> our class id, -1 where a value means nothing."""
        table = np.full(256, -1, dtype=np.int64)
        table[BACKGROUND], table[IGNORE] = BACKGROUND, IGNORE
        table[1 : len(VOC_20) + 1] = self.other_classes_as
        for class_id, name in enumerate(self.taxonomy.names, start=1):
            table[VOC_20.id_of(name)] = class_id
        return table

    def signature(self) -> str:
        """Hash of the lists, of the label file or the XML annotations, and of the size of every image and mask."""
        digest = hashlib.sha256()
        for split in sorted(self.lists):
            for listed in self.list_split(split):
                image = self.root / "JPEGImages" / f"{listed.key}.jpg"
                mask = self.root / self.masks / f"{listed.key}.png"
                files = [image, mask]
                if self.saliency:
                    files.append(self.root / self.saliency / f"{listed.key}.png")
                sizes = [path.stat().st_size if path.exists() else -1 for path in files]
                digest.update(f"{split} {listed.key} {sizes}\n".encode())
                annotation = self.root / "Annotations" / f"{listed.key}.xml"
                if (self.labels is None or self.boxes == "annotations") and annotation.is_file():
                    digest.update(annotation.read_bytes())
        if self.labels is not None:
            _ = self._label_file  # raises where it is of another form
            digest.update(self.labels.read_bytes())
        return digest.hexdigest()


def _read_keys(path: Path, split: str) -> list[str]:
    """The keys of a list. Raises ValueError, with the line, for what cannot be a file's name below the root."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"the list of split {split!r} is not UTF-8 text: {path}: {error}") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        if not (key := line.strip()):
            continue
        parts = key.split("/")
        if len(key.split()) > 1 or any(part in ("", ".", "..") or not _KEY_PART.fullmatch(part) for part in parts):
            raise ValueError(
                f"the list of split {split!r} has no key in line {number}: {key[:80]!r}; write one a line, "
                f"a path below JPEGImages without its ending: {path}"
            )
        keys.append(key)
    if not keys:
        raise ValueError(f"the list of split {split!r} is empty: {path}")
    return keys


def _box_of(annotated: ElementTree.Element, class_id: int) -> Box:
    """VOC counts pixels from 1 and means the last one too; some of its coordinates have fractions."""
    texts = [annotated.findtext(f"bndbox/{name}") for name in ("ymin", "xmin", "ymax", "xmax")]
    try:
        top, left, bottom, right = (round(float(text or "")) for text in texts)
    except (ValueError, OverflowError):
        raise BadSampleError(f"the box of an object {annotated.findtext('name')!r} is not four numbers") from None
    return Box(class_id, top - 1, left - 1, bottom, right)


def _words(error: Exception) -> str:
    """An error without the path that the system's own words hold: a reason does not depend on the root's place."""
    return error.strerror or "not readable" if isinstance(error, OSError) else str(error)
