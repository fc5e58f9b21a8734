"""COCO's layout: for each split a JSON file of instances or panoptic segments, and a folder of images.

    annotations/instances_<split>2017.json             outlines: polygons or run lengths
    annotations/panoptic_<split>2017.json and the folder of the same name, PNGs with segment ids as colours
    <split>2017/<image>                                 or 2014, or as configured

Class ids number the categories of the first split's file from 1, in the order of their category ids, which have gaps.
Categories of other files are matched by name. Image-level labels are the categories of an image's annotations,
including crowds. In masks, crowds are 255, and so is the box of an object without an outline. Where instances overlap,
the one with fewer pixels is in front. Pixels of a panoptic mask without a segment are 255. A file without annotations
means that its images are not labelled: every class is unknown. Image sizes in a file are checked if present.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np

from shards.boxes import boxes_of_mask, inside
from shards.files import sha256_of
from shards.images import decode_colour_png
from shards.label_type import BACKGROUND
from shards.orientation import stored_size, upright, upright_box
from shards.records import BadSampleError, Box, Sample
from shards.sources.classes import ChosenClasses
from shards.sources.coco_categories import FileCategories, is_crowd, joined, taxonomy_of
from shards.sources.coco_json import CocoIndex, read_index
from shards.sources.coco_masks import (
    Outline,
    box_mask,
    box_of_mask,
    instances_values,
    panoptic_values,
    segmentation_mask,
    whole_box,
)
from shards.sources.disk import (
    StoredImage,
    as_path,
    file_sizes,
    is_key,
    presence,
    read_file,
    read_image,
    read_saliency,
    words,
)
from shards.sources.neighbours import beside
from shards.sources.source import Listed, Listing
from shards.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """Images in the order of the JSON file; a key is an image's file name without its extension.

    If splits contain different images of the same name (train2017/000001.jpg and val2017/000001.jpg), every key begins
    with its split's folder.
    """

    root: Path
    annotations: Mapping[str, Path]
    """Split -> JSON file."""
    images: Mapping[str, str]
    """Split -> folder of its images, relative to the root."""
    form: Literal["instances", "panoptic"]
    masked_splits: tuple[str, ...]
    """Splits for which masks are created."""
    boxes: Literal["none", "annotations", "masks"] = "none"
    """Boxes: none, from the annotations (of things, without crowds), or from the connected components of the masks."""
    saliency: str = ""
    """Folder of saliency maps below the root: grey PNGs at the paths of the images, not needed for every image; none if
    empty."""
    class_names: tuple[str, ...] = ()
    """A subset of the categories, numbered in this order; all of them if empty."""
    other_classes_as: int = BACKGROUND
    """Value of mask pixels of classes outside the subset: 0 or 255."""
    _indices: dict[str, CocoIndex] = field(default_factory=dict, init=False, repr=False, compare=False)
    _joined: dict[str, FileCategories] = field(default_factory=dict, init=False, repr=False, compare=False)
    _keys: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _index(self, split: str) -> CocoIndex:
        if split not in self.annotations:
            raise ValueError(
                f"no annotations for split {split!r}; annotations are given for {sorted(self.annotations)}"
            )
        if split not in self._indices:
            self._indices[split] = read_index(self.annotations[split])
        return self._indices[split]

    @property
    def _first(self) -> CocoIndex:
        """The file that defines the classes: the first one with categories; a file of test images may have none."""
        first, *others = self.annotations
        for split in (first, *others):
            if (index := self._index(split)).categories:
                return index
        raise ValueError(f"{self.annotations[first]} lists no categories")

    @cached_property
    def _classes(self) -> ChosenClasses:
        every = taxonomy_of(self._first)
        return ChosenClasses(every=every, names=self.class_names, other_classes_as=self.other_classes_as)

    def _categories(self, split: str) -> FileCategories:
        if split not in self._joined:
            self._joined[split] = joined(self._index(split), first=self._first, classes=self._classes)
        return self._joined[split]

    @property
    def taxonomy(self) -> Taxonomy:
        return self._classes.taxonomy

    def list_split(self, split: str) -> Listing:
        _ = self._categories(split)  # raises if they do not match those of the other splits
        if split not in self._keys:
            self._keys[split] = tuple(self._prefix(split) + key for key in _stems(self._index(split)))
        return Listing(split, self._keys[split])

    def _prefix(self, split: str) -> str:
        """The prefix of a split's keys: empty, or its folder if other splits have different images of the same names.

        Two splits with the same name in the same folder share that image; this is reported as a duplicate.
        """
        if not self._names_repeat:
            return ""
        folder = as_path(self.images[split]).strip("/")
        return f"{folder if is_key(folder) else split}/"

    @cached_property
    def _names_repeat(self) -> bool:
        """True if two splits have images of the same name in different folders."""
        seen: dict[str, str] = {}
        for split in self.annotations if len(self.annotations) > 1 else ():
            folder = as_path(self.images[split]).strip("/")
            for stem in _stems(self._index(split)):
                if seen.setdefault(stem, folder) != folder:
                    return True
        return False

    def image_bytes(self, split: str) -> np.ndarray:
        return file_sizes(self.root / self.images[split], self._index(split).file_names)

    def read(self, listed: Listed) -> Sample:
        index = self._index(listed.split)
        image = read_image(self.root, f"{self.images[listed.split]}/{index.file_names[listed.position]}")
        try:
            found = self._annotated(listed, index, image) if index.annotated else _Annotated()
        except (KeyError, TypeError, AttributeError) as error:
            raise BadSampleError(f"an annotation of {image.name} is not in COCO's format: {error!r}") from error
        saliency = self._saliency_name(listed.split, index.file_names[listed.position])
        return Sample(
            key=listed.key,
            encoded=image.encoded,
            size=image.size,
            classes=found.classes,
            unknown=() if index.annotated else self._classes.all_ids,
            mask=found.mask,
            boxes=found.boxes,
            saliency=read_saliency(self.root, saliency, image=image) if self.saliency else None,
            position=listed.position,
            source=image.name,
            notes=found.notes,
        )

    def _annotated(self, listed: Listed, index: CocoIndex, image: StoredImage) -> _Annotated:
        """Labels, mask and boxes of an image from its annotations."""
        drawn_on = _drawn_on(index, listed.position, image)
        categories = self._categories(listed.split)
        found = index.annotations(listed.position)
        segments = [part for one in found for part in one["segments_info"]] if self.form == "panoptic" else found
        full_ids = {categories.full_id(segment) for segment in segments}
        classes = self._classes.ids(full_id for full_id in full_ids if full_id)
        notes = {"objects": len(segments), "crowds": sum(map(is_crowd, segments))}
        mask = None
        if listed.split in self.masked_splits:
            if self.form == "panoptic":
                values = self._panoptic(index, found, image, categories)
            else:
                outlines = [segmentation_mask(one.get("segmentation"), size=drawn_on) for one in segments]
                values = self._instances(segments, outlines, categories, size=drawn_on)
                notes["without_outline"] = sum(outline is None for outline in outlines)
            mask = self._classes.mask(_turned(values, image), name=image.name)
        boxes = None
        if self.boxes == "masks" and mask is not None:
            boxes = boxes_of_mask(mask)
        elif self.boxes == "annotations":
            boxes = self._boxes(segments, categories, drawn_on, image)
        return _Annotated(classes, mask, boxes, {name: count for name, count in notes.items() if count})

    def _instances(
        self,
        segments: list[dict[str, Any]],
        outlines: list[np.ndarray | None],
        categories: FileCategories,
        *,
        size: tuple[int, int],
    ) -> np.ndarray:
        """A mask of full ids. An object without an outline is ignored in its box, behind all others."""
        drawn = []
        for segment, outline in zip(segments, outlines, strict=True):
            value = categories.value(segment)
            if outline is not None:
                drawn.append(Outline(value, is_crowd(segment), outline))
            elif value == categories.ignore or self._classes.id_of(value) or (value and self.other_classes_as):
                drawn.append(Outline(categories.ignore, True, box_mask(segment.get("bbox"), size=size)))
        return instances_values(drawn, size=size, labels=self._classes.stored)

    def _panoptic(
        self, index: CocoIndex, annotations: list[dict[str, Any]], image: StoredImage, categories: FileCategories
    ) -> np.ndarray:
        if len(annotations) != 1:
            raise BadSampleError(f"{image.name} has {len(annotations)} panoptic annotations; it must have exactly one")
        name = as_path(str(annotations[0]["file_name"]))
        if not is_key(name):
            raise BadSampleError(f"the mask {name[:80]!r} is not a valid path relative to its folder")
        folder = index.path.with_suffix("")
        values = {int(segment["id"]): categories.value(segment) for segment in annotations[0]["segments_info"]}
        try:
            return panoptic_values(decode_colour_png(read_file(folder, name)), values, labels=self._classes.stored)
        except BadSampleError:
            raise
        except (OSError, ValueError) as error:
            there = beside(folder, name) if isinstance(error, FileNotFoundError) else ""
            raise BadSampleError(f"cannot read the mask {name}: {words(error)}{there}") from error

    def _boxes(
        self,
        segments: list[dict[str, Any]],
        categories: FileCategories,
        drawn_on: tuple[int, int],
        image: StoredImage,
    ) -> tuple[Box, ...]:
        """The objects' boxes; for an object without a box, the box of its outline."""
        boxes = []
        for segment in segments:
            class_id = self._classes.id_of(categories.full_id(segment) or BACKGROUND)
            if class_id is None or not categories.is_thing(segment):
                continue
            sides = None
            if not any(segment.get("bbox") or ()):  # 0, 0, 0, 0 counts as no box
                outline = segmentation_mask(segment.get("segmentation"), size=drawn_on)
                sides = None if outline is None else box_of_mask(outline)
            box = Box(class_id, *(sides or whole_box(segment["bbox"])))
            if drawn_on == stored_size(image.size, orientation=image.orientation):
                box = upright_box(box, orientation=image.orientation, size=image.size)
            boxes.append(box)
        return inside(boxes, size=image.size)

    def _saliency_name(self, split: str, file_name: str) -> str:
        return str(PurePosixPath(self.saliency, self.images[split], file_name).with_suffix(".png"))

    def signature(self, *, masks: bool = True) -> str:
        """Hash of the JSON files' content, and of which images, panoptic masks and saliency maps exist."""
        digest = hashlib.sha256(f"{self.form}\n".encode())
        for split in sorted(self.annotations):
            index = self._index(split)
            digest.update(f"{split} {sha256_of(index.path)}\n".encode())
            digest.update(f"{self.images[split]}\n".encode())
            digest.update(b"".join(presence(self.root / self.images[split], index.file_names)))
            if self.saliency:
                names = (self._saliency_name(split, name) for name in index.file_names)
                digest.update(f"saliency {self.saliency}\n".encode() + b"".join(presence(self.root, names)))
            reads_masks = split in self.masked_splits and (masks or self.boxes == "masks")
            if self.form == "panoptic" and reads_masks and index.annotated:
                names = (f"{listed.key}.png" for listed in self.list_split(split))
                digest.update(b"".join(presence(index.path.with_suffix(""), names)))
        return digest.hexdigest()


class _Annotated(NamedTuple):
    """Labels, mask and boxes of one image; the defaults if it has no annotations."""

    classes: tuple[int, ...] = ()
    mask: np.ndarray | None = None
    boxes: tuple[Box, ...] | None = None
    notes: Mapping[str, int] = {}


def _stems(index: CocoIndex) -> Iterator[str]:
    """The file names without their extensions. Raises ValueError for repeated names and names that cannot be keys."""
    seen: set[str] = set()
    for name in index.file_names:
        stem = str(PurePosixPath(name).with_suffix("")) if is_key(name) else ""
        if not stem or stem in seen:
            fault = "is used by two images, ignoring the extension" if stem else "is not a valid path below a folder"
            raise ValueError(f"{index.path}: the file name {name[:80]!r} {fault}")
        seen.add(stem)
        yield stem


def _drawn_on(index: CocoIndex, position: int, image: StoredImage) -> tuple[int, int]:
    """(H, W) of the pixel grid that the annotations refer to: from the JSON file, else the image's stored size."""
    height, width = index.sizes[position].tolist()
    stored = stored_size(image.size, orientation=image.orientation)
    if not height:
        return stored
    if (height, width) not in (image.size, stored):
        (of_height, of_width) = image.size
        raise BadSampleError(
            f"{image.name} is {of_width}x{of_height}, but its annotations are for an image of {width}x{height}"
        )
    return height, width


def _turned(values_HW: np.ndarray, image: StoredImage) -> np.ndarray:
    """Turn values upright like the image: outlines refer to stored pixels unless their size is the upright one."""
    if values_HW.shape == stored_size(image.size, orientation=image.orientation):
        return upright(values_HW, orientation=image.orientation)
    if values_HW.shape != image.size:
        raise BadSampleError(f"the mask of {image.name} has size {values_HW.shape}, but the image has {image.size}")
    return values_HW
