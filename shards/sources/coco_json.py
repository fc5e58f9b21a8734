"""Reads COCO's JSON files element by element, so that half a gigabyte of annotations is never in memory as a whole.

One pass records the byte ranges of each image's annotations; reading an image parses only those.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from shards.sources.class_names import composed
from shards.sources.disk import as_path

_CHUNK = 1 << 22
_BLANK = " \t\r\n"
_MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors write before UTF-8."""


class Category(NamedTuple):
    """A category of a file."""

    id: str
    """As `plain_id`."""
    name: str
    is_thing: bool
    """False for stuff in panoptic files, which has regions instead of objects."""


@dataclass(frozen=True)
class CocoIndex:
    """The images and categories of one file, and the positions of its annotations. Images are in the file's order."""

    path: Path
    file_names: tuple[str, ...]
    sizes: np.ndarray
    """i32[n, 2]: height and width of the stored pixels, according to the file; 0, 0 if it gives none."""
    categories: tuple[Category, ...]
    """Ascending by id, numeric ids before others; ids have gaps."""
    annotated: bool
    """False for a file without annotations, such as those of the test images."""
    first: np.ndarray
    """i64[n + 1]: the annotations of image i are rows first[i] to first[i + 1] - 1 of `spans`."""
    spans: np.ndarray
    """i64[m, 2]: first byte of each annotation, and the byte after its last byte."""

    def annotations(self, image: int) -> list[dict[str, Any]]:
        """The annotations of one image, in the file's order."""
        spans = self.spans[self.first[image] : self.first[image + 1]].tolist()
        found = []
        with self.path.open("rb") as file:
            for start, end in spans:
                file.seek(start)
                found.append(json.loads(file.read(end - start)))
        return found


def read_index(path: Path) -> CocoIndex:
    """Index a file in one pass. Raises ValueError, naming the file, if it is not a COCO file."""
    if not path.is_file():
        raise ValueError(f"the annotation file does not exist: {path}")
    building = _Building(path)
    for key, start, end, value in elements(path):
        try:
            building.add(key, start, end, value)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path} is not a COCO file: {type(error).__name__} {error} at byte {start}") from error
        except _ElementError as error:
            raise ValueError(f"{path}, at byte {start}: {error}") from None
    return building.finish()


class _ElementError(ValueError):
    """An element with an invalid value."""


def plain_id(value: Any) -> str:
    """An id as text: files write the same id as 1, "1" or 1.0. Raises TypeError for any other value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{value!r} is not an id")
    return str(value).strip()


def _by_id(category: Category) -> tuple[bool, int, str]:
    is_number = category.id.isdecimal()
    return not is_number, int(category.id) if is_number else 0, category.id


def _size(image: Any) -> tuple[int, int]:
    """Height and width of an image; (0, 0), meaning not known, if either is missing or not positive."""
    sides = [image.get(name) for name in ("height", "width")]
    if any(side in (None, "") for side in sides):
        return 0, 0
    try:
        height, width = (int(float(side)) for side in sides)
    except (TypeError, ValueError, OverflowError):
        raise _ElementError(f"height and width of an image are {sides[0]!r} and {sides[1]!r}; write numbers") from None
    return (height, width) if height > 0 and width > 0 else (0, 0)


class _Building:
    """Collects a `CocoIndex` while its file is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: list[str] = []
        self._sizes, self._owners, self._starts, self._ends = array("i"), array("i"), array("q"), array("q")
        self._indices: dict[str, int] = {}
        self._categories: dict[str, Category] = {}
        self._waiting: list[tuple[str, int, int]] = []
        self._annotated = False

    def add(self, key: str, start: int, end: int, value: Any) -> None:
        if key == "annotations":
            self._annotated = True
        if value is None:
            return
        if key == "images":
            image_id = plain_id(value["id"])
            if image_id in self._indices:
                raise ValueError(f"{self._path} lists the image {image_id} more than once")
            self._indices[image_id] = len(self._names)
            self._names.append(as_path(str(value["file_name"])))
            self._sizes.extend(_size(value))
        elif key == "categories":
            found = Category(plain_id(value["id"]), composed(str(value["name"])), bool(value.get("isthing", True)))
            if (other := self._categories.setdefault(found.id, found)) != found:
                raise _ElementError(f"the categories {other.name!r} and {found.name!r} have the same id {found.id}")
        elif key == "annotations":
            image_id = plain_id(value["image_id"])
            owner = self._indices.get(image_id)
            if owner is None:  # its image may be listed later in the file
                self._waiting.append((image_id, start, end))
            else:
                self._own(owner, start, end)

    def _own(self, owner: int, start: int, end: int) -> None:
        self._owners.append(owner)
        self._starts.append(start)
        self._ends.append(end)

    def finish(self) -> CocoIndex:
        for image_id, start, end in self._waiting:
            if image_id not in self._indices:
                raise ValueError(
                    f"{self._path}: the annotation at byte {start} refers to image {image_id}, which the file does not "
                    "list"
                )
            self._own(self._indices[image_id], start, end)
        if not self._names or (self._annotated and not self._categories):
            raise ValueError(
                f"{self._path} is not a COCO file: it lists {len(self._names)} images and "
                f"{len(self._categories)} categories"
            )
        spans = np.stack([np.frombuffer(self._starts, np.int64), np.frombuffer(self._ends, np.int64)], axis=1)
        owners = np.frombuffer(self._owners, np.intc)
        order = np.lexsort((spans[:, 0], owners))
        return CocoIndex(
            path=self._path,
            file_names=tuple(self._names),
            sizes=np.frombuffer(self._sizes, np.intc).reshape(-1, 2),
            categories=tuple(sorted(self._categories.values(), key=_by_id)),
            annotated=self._annotated,
            first=np.searchsorted(owners[order], np.arange(len(self._names) + 1)),
            spans=spans[order],
        )


def elements(path: Path) -> Iterator[tuple[str, int, int, Any]]:
    """(key, first byte, byte after the last, value) of every element of the arrays in a file's top-level object.

    The start of an array is reported with the value None; a value that is not an array is reported as it is. Raises
    ValueError if the file is not a JSON object.
    """
    with path.open("rb") as file:
        scanner = _Scanner(path, file)
        scanner.take("{")
        while scanner.peek() != "}":
            _, _, key = scanner.value()
            scanner.take(":")
            if scanner.peek() == "[":
                start = scanner.take("[")
                yield str(key), start, start, None
                while scanner.peek() != "]":
                    yield str(key), *scanner.value()
                    if scanner.peek() != "]":
                        scanner.take(",")
                scanner.take("]")
            else:
                yield str(key), *scanner.value()
            if scanner.peek() != "}":
                scanner.take(",")


class _Scanner:
    """Reads JSON values of a file one by one, with a few megabytes in memory at a time.

    The text is decoded as Latin-1 so that one character is one byte, which gives byte offsets; values are decoded as
    UTF-8.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._text = file.read(len(_MARK)).removeprefix(_MARK).decode("latin-1")
        self._before, self._at, self._ended = file.tell() - len(self._text), 0, False
        self._decoder = json.JSONDecoder()

    def _more(self) -> None:
        self._before += self._at
        rest = self._text[self._at :]
        chunk = self._file.read(max(_CHUNK, len(rest)))  # doubles until the value is complete
        self._text, self._at, self._ended = rest + chunk.decode("latin-1"), 0, not chunk

    def peek(self) -> str:
        """The next character that is not blank. Raises ValueError at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                raise ValueError(f"{self._path} is not valid JSON: it ends too early (the file may be truncated)")
            self._more()

    def take(self, expected: str) -> int:
        """Skip the next character and return its byte offset in the file."""
        if (found := self.peek()) != expected:
            offset = self._before + self._at
            raise ValueError(f"{self._path} is not valid JSON: {expected} expected at byte {offset}, found {found!r}")
        self._at += 1
        return self._before + self._at - 1

    def value(self) -> tuple[int, int, Any]:
        """First byte, byte after the last, and the next value itself."""
        self.peek()
        while True:
            try:
                found, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    offset = self._before + error.pos
                    raise ValueError(f"{self._path} is not valid JSON: {error.msg} at byte {offset}") from None
            else:
                if end < len(self._text) or self._ended:  # a number at the end of the buffer may be incomplete
                    break
            self._more()
        source = self._text[self._at : end]
        if not source.isascii():
            found = json.loads(source.encode("latin-1"))
        start, self._at = self._before + self._at, end
        return start, self._before + end, found
