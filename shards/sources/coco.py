"""COCO's layout: a JSON file for each split, of instances or of panoptic segments, and a folder of images.

    annotations/instances_<split>2017.json             outlines: polygons or run lengths
    annotations/panoptic_<split>2017.json and the folder of that name, PNGs whose colours are segment ids
    <split>2017/<image>                                 or 2014, or what the settings name

Class ids count the file's categories from 1, ascending by their own ids, which have gaps. Image-level labels are the
categories of an image's annotations, crowds included. In masks crowds are 255; of instances that overlap, the one with
fewer pixels lies in front; what no segment of a panoptic mask holds is 255. A file without annotations is of images
that nobody labelled: every class is unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from shards.boxes import boxes_of_mask, inside
from shards.file_system_errors import reading
from shards.files import sha256_of
from shards.images import decode_image
from shards.orientation import stored_size, upright, upright_box
from shards.records import BACKGROUND, IGNORE, BadSampleError, Box, Sample
from shards.sources.classes import ChosenClasses
from shards.sources.coco_json import Category, CocoIndex, read_index
from shards.sources.coco_masks import instances_values, panoptic_values, whole_box
from shards.sources.disk import StoredImage, file_sizes, is_key, presence, read_image, words
from shards.sources.source import Listed, Listing
from shards.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """Images in the order of the JSON file; a key is an image's file name without its ending."""

    root: Path
    annotations: Mapping[str, Path]
    """Split -> JSON file."""
    images: Mapping[str, str]
    """Split -> folder of its images below the root."""
    form: Literal["instances", "panoptic"]
    masked_splits: tuple[str, ...]
    """Splits whose masks are made at all."""
    boxes: Literal["none", "annotations", "masks"] = "none"
    """Frames: none, those of the annotations (of things, no crowds), or of the components of the masks."""
    class_names: tuple[str, ...] = ()
    """A subset of the categories, numbered in this order; all of them where empty."""
    other_classes_as: int = BACKGROUND
    """What mask pixels of classes outside the subset become: 0 or 255."""
    _indices: dict[str, CocoIndex] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _index(self, split: str) -> CocoIndex:
        if split not in self.annotations:
            raise ValueError(f"no annotations for split {split!r}; they are given for {sorted(self.annotations)}")
        if split not in self._indices:
            found = read_index(self.annotations[split])
            for index in self._indices.values():
                if index.categories != found.categories:
                    raise ValueError(f"{index.path} and {found.path} have different categories")
            self._indices[split] = found
        return self._indices[split]

    @cached_property
    def _categories(self) -> tuple[Category, ...]:
        return self._index(next(iter(self.annotations))).categories

    @cached_property
    def _classes(self) -> ChosenClasses:
        every = Taxonomy(tuple(category.name for category in self._categories))
        return ChosenClasses(every=every, names=self.class_names, other_classes_as=self.other_classes_as)

    @cached_property
    def _full_ids(self) -> dict[int, int]:
        """Category id -> place among the categories, from 1."""
        return {category.id: place for place, category in enumerate(self._categories, start=1)}

    @property
    def taxonomy(self) -> Taxonomy:
        return self._classes.taxonomy

    def list_split(self, split: str) -> Listing:
        index = self._index(split)
        keys: dict[str, None] = {}
        for name in index.file_names:
            key = str(PurePosixPath(name).with_suffix("")) if is_key(name) else ""
            if not key or key in keys:
                fault = "stands for two images, without its ending" if key else "is no path below a folder"
                raise ValueError(f"{index.path}: the file name {name[:80]!r} {fault}")
            keys[key] = None
        return Listing(split, tuple(keys))

    def image_bytes(self, split: str) -> np.ndarray:
        return file_sizes(self.root / self.images[split], self._index(split).file_names)

    def read(self, listed: Listed) -> Sample:
        index = self._index(listed.split)
        image = read_image(self.root, f"{self.images[listed.split]}/{index.file_names[listed.position]}")
        try:
            classes, mask, boxes = self._annotated(listed, index, image) if index.annotated else ((), None, None)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadSampleError(f"an annotation of {image.name} is not of COCO's form: {error!r}") from error
        return Sample(
            key=listed.key,
            encoded=image.encoded,
            size=image.size,
            classes=classes,
            unknown=() if index.annotated else self._classes.all_ids,
            mask=mask,
            boxes=boxes,
            position=listed.position,
            source=image.name,
        )

    def _annotated(
        self, listed: Listed, index: CocoIndex, image: StoredImage
    ) -> tuple[tuple[int, ...], np.ndarray | None, tuple[Box, ...] | None]:
        """Classes, mask and boxes of an image."""
        drawn_on: tuple[int, int] = tuple(index.sizes[listed.position].tolist())
        if drawn_on not in (image.size, stored_size(image.size, orientation=image.orientation)):
            (height, width), (of_height, of_width) = image.size, drawn_on
            raise BadSampleError(
                f"{image.name} is {width}x{height}, its annotations are of an image of {of_width}x{of_height}"
            )
        found = index.annotations(listed.position)
        segments = [part for one in found for part in one["segments_info"]] if self.form == "panoptic" else found
        classes = self._classes.ids(self._full_ids[segment["category_id"]] for segment in segments)
        mask = None
        if listed.split in self.masked_splits:
            if self.form == "panoptic":
                values = self._panoptic(index, found, image)
            else:
                values = self._instances(found, drawn_on)
            mask = self._classes.mask(_turned(values, image), name=image.name)
        if self.boxes == "masks":
            return classes, mask, None if mask is None else boxes_of_mask(mask)
        return classes, mask, self._frames(segments, drawn_on, image) if self.boxes == "annotations" else None

    def _value(self, segment: Mapping[str, Any]) -> int:
        return IGNORE if segment.get("iscrowd") else self._full_ids[segment["category_id"]]

    def _instances(self, annotations: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
        return instances_values(((self._value(one), one["segmentation"]) for one in annotations), size=size)

    def _panoptic(self, index: CocoIndex, annotations: list[dict[str, Any]], image: StoredImage) -> np.ndarray:
        if len(annotations) != 1:
            raise BadSampleError(f"{image.name} has {len(annotations)} panoptic annotations; it must have one")
        name = str(annotations[0]["file_name"])
        if not is_key(name):
            raise BadSampleError(f"the mask {name[:80]!r} is no path below a folder")
        path = index.path.with_suffix("") / name
        values = {int(segment["id"]): self._value(segment) for segment in annotations[0]["segments_info"]}
        try:
            with reading(path):
                content = path.read_bytes()
            return panoptic_values(decode_image(content), values)
        except BadSampleError:
            raise
        except (OSError, ValueError) as error:
            raise BadSampleError(f"cannot read the mask {path.name}: {words(error)}") from error

    def _frames(self, segments: list[dict[str, Any]], drawn_on: tuple[int, int], image: StoredImage) -> tuple[Box, ...]:
        things = {category.id for category in self._categories if category.is_thing}
        boxes = []
        for segment in segments:
            class_id = self._classes.id_of(self._full_ids[segment["category_id"]])
            if class_id is None or segment.get("iscrowd") or segment["category_id"] not in things:
                continue
            box = Box(class_id, *whole_box(segment["bbox"]))
            if drawn_on == stored_size(image.size, orientation=image.orientation):
                box = upright_box(box, orientation=image.orientation, size=image.size)
            boxes.append(box)
        return inside(boxes, size=image.size)

    def signature(self) -> str:
        """Hash of the JSON files' content, and of which images and panoptic masks are there."""
        digest = hashlib.sha256(f"{self.form}\n".encode())
        for split in sorted(self.annotations):
            index = self._index(split)
            digest.update(f"{split} {sha256_of(index.path)}\n".encode())
            digest.update(b"".join(presence(self.root / self.images[split], index.file_names)))
            if self.form == "panoptic" and split in self.masked_splits and index.annotated:
                masks = (f"{listed.key}.png" for listed in self.list_split(split))
                digest.update(b"".join(presence(index.path.with_suffix(""), masks)))
        return digest.hexdigest()


def _turned(values_HW: np.ndarray, image: StoredImage) -> np.ndarray:
    """COCO's outlines count pixels as they are stored: turned with the image unless their size says otherwise."""
    if values_HW.shape == stored_size(image.size, orientation=image.orientation):
        return upright(values_HW, orientation=image.orientation)
    if values_HW.shape != image.size:
        raise BadSampleError(f"the mask of {image.name} has another size than it: {values_HW.shape}, {image.size}")
    return values_HW
