"""Matches categories of several COCO files by name, since each file has its own category ids."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shards.label_type import BACKGROUND
from shards.records import BadSampleError
from shards.sources.class_names import is_background, plain
from shards.sources.classes import ChosenClasses
from shards.sources.coco_json import CocoIndex, plain_id
from shards.taxonomy import Taxonomy


def taxonomy_of(index: CocoIndex) -> Taxonomy:
    """The classes of a file: its categories in the order of their ids, without one called background.

    Raises ValueError, naming the file, if two have the same name.
    """
    try:
        return Taxonomy(tuple(category.name for category in index.categories if not is_background(category.name)))
    except ValueError as error:
        raise ValueError(f"{index.path}: {error}") from None


@dataclass(frozen=True)
class FileCategories:
    """The categories of one file, mapped to classes of the data set."""

    full_ids: Mapping[str, int | None]
    """Category id -> full id of its class; 0 for background, None for a class that is not selected."""
    things: frozenset[str]
    """Ids of the categories that are things; the others are stuff."""
    of_others: int
    """Value of pixels of classes that are not selected: 0, or that of ignored pixels."""
    ignore: int
    """Value of ignored pixels."""

    def full_id(self, segment: Mapping[str, Any]) -> int | None:
        """The full id of a segment's class. Raises `BadSampleError` for a category that the file does not list."""
        category = plain_id(segment["category_id"])
        if category not in self.full_ids:
            raise BadSampleError(
                f"an annotation has category {category}, which is not in the file's list of categories"
            )
        return self.full_ids[category]

    def value(self, segment: Mapping[str, Any]) -> int:
        """The value of a segment's pixels before the subset of classes is applied."""
        if is_crowd(segment):
            return self.ignore
        full_id = self.full_id(segment)
        return self.of_others if full_id is None else full_id

    def is_thing(self, segment: Mapping[str, Any]) -> bool:
        """True for a single object, which has a box: not stuff, not a crowd, not background."""
        return plain_id(segment["category_id"]) in self.things and not is_crowd(segment)


def joined(index: CocoIndex, *, first: CocoIndex, classes: ChosenClasses) -> FileCategories:
    """Match the categories of `index` by name to those of `first`, which defines the classes.

    `index` may lack some. Raises ValueError for one that `first` lacks, unless `class_names` selects the classes.
    """
    known = {name: full_id for full_id, name in enumerate(classes.every.names, start=1)}
    full_ids: dict[str, int | None] = {}
    for category in index.categories:
        if is_background(category.name):
            full_ids[category.id] = BACKGROUND
        elif category.name in known or classes.names:
            full_ids[category.id] = known.get(category.name)
        else:
            raise ValueError(_other_category(category.name, index, first, known))
    things = frozenset(c.id for c in index.categories if c.is_thing and not is_background(c.name))
    ignore = classes.stored.ignore
    return FileCategories(full_ids, things, ignore if classes.other_classes_as else BACKGROUND, ignore)


def _other_category(name: str, index: CocoIndex, first: CocoIndex, known: Mapping[str, int]) -> str:
    by_plain = {plain(other): other for other in known}
    near = [by_plain[one] for one in difflib.get_close_matches(plain(name), list(by_plain), n=1)]
    what = f"use {near[0]!r} in both" if near else "add it there"
    return (
        f"{index.path} has a category {name!r}, but {first.path} has no category of that name (it has "
        f"{', '.join(list(known)[:5])}{', ...' if len(known) > 5 else ''}): {what}, or list the classes to use in "
        "class_names"
    )


def is_crowd(segment: Mapping[str, Any]) -> bool:
    """True if an annotation covers a group of objects. Raises `BadSampleError` for an invalid value."""
    value = segment.get("iscrowd")
    text = str(value).strip().lower()
    if value is None or text in ("0", "0.0", "false", ""):
        return False
    if text in ("1", "1.0", "true"):
        return True
    raise BadSampleError(f"an annotation has iscrowd = {value!r}; write 0 for one object, 1 for a group of objects")
