"""Categories of several COCO files joined by their names: each file numbers them in its own way."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shards.records import BACKGROUND, IGNORE, BadSampleError
from shards.sources.class_names import is_background, plain
from shards.sources.classes import ChosenClasses
from shards.sources.coco_json import CocoIndex, plain_id
from shards.taxonomy import Taxonomy


def taxonomy_of(index: CocoIndex) -> Taxonomy:
    """The classes of a file: its categories by their ids, less one that is called background.

    Raises ValueError, with the file, where two have the same name.
    """
    try:
        return Taxonomy(tuple(category.name for category in index.categories if not is_background(category.name)))
    except ValueError as error:
        raise ValueError(f"{index.path}: {error}") from None


@dataclass(frozen=True)
class FileCategories:
    """The categories of one file, as classes of the data set."""

    full_ids: Mapping[str, int | None]
    """Category id -> full id of its class; 0 for one called background, None for one outside the classes kept."""
    things: frozenset[str]
    """Ids of those that have objects; the others are stuff."""
    of_others: int
    """What pixels of classes outside those kept become: 0 or 255."""

    def full_id(self, segment: Mapping[str, Any]) -> int | None:
        """The full id of a segment's class. Raises `BadSampleError` for a category that the file does not list."""
        category = plain_id(segment["category_id"])
        if category not in self.full_ids:
            raise BadSampleError(f"an annotation is of category {category}, which is not among the file's categories")
        return self.full_ids[category]

    def value(self, segment: Mapping[str, Any]) -> int:
        """What a segment's pixels are before classes are chosen."""
        if is_crowd(segment):
            return IGNORE
        full_id = self.full_id(segment)
        return self.of_others if full_id is None else full_id

    def is_thing(self, segment: Mapping[str, Any]) -> bool:
        """True for one object, which has a frame: no stuff, no crowd, no background."""
        return plain_id(segment["category_id"]) in self.things and not is_crowd(segment)


def joined(index: CocoIndex, *, first: CocoIndex, classes: ChosenClasses) -> FileCategories:
    """The categories of `index` by the names of `first`, which the classes are of.

    It may lack some. Raises ValueError for one that `first` lacks, unless settings choose the classes to keep.
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
    return FileCategories(full_ids, things, classes.other_classes_as)


def _other_category(name: str, index: CocoIndex, first: CocoIndex, known: Mapping[str, int]) -> str:
    by_plain = {plain(other): other for other in known}
    near = [by_plain[one] for one in difflib.get_close_matches(plain(name), list(by_plain), n=1)]
    what = f"write {near[0]!r} in both" if near else "add it there"
    return (
        f"{index.path} has a category {name!r}, and {first.path} lists none of that name (but "
        f"{', '.join(list(known)[:5])}{', ...' if len(known) > 5 else ''}): {what}, or name the classes to keep in "
        "class_names"
    )


def is_crowd(segment: Mapping[str, Any]) -> bool:
    """True where an annotation is of many objects at once. Raises `BadSampleError` for a value that is neither."""
    value = segment.get("iscrowd")
    told = str(value).strip().lower()
    if value is None or told in ("0", "0.0", "false", ""):
        return False
    if told in ("1", "1.0", "true"):
        return True
    raise BadSampleError(f"an annotation has iscrowd = {value!r}; write 0 for one object, 1 for many at once")
