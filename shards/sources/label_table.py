"""Image-level labels in a CSV file: UTF-8, with a header line, columns separated by commas, semicolons or tabs.

| column | content |
|---|---|
| `image` | the image's path below the root, with its file extension |
| `labels` | class names, separated; empty if the image shows none of the classes |
| `unknown` | class names whose presence was not checked; `*` for all classes not in `labels`; optional |
| `split` | the split of the row; optional if every split has its own table |

Rows of the same image are combined, so a table may have one row per label. Without a column `labels` the images are not
labelled: every class is unknown. Other columns are ignored, but columns of 0 and 1 for each class are refused.
"""

from __future__ import annotations

import csv
import difflib
import posixpath
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shards.sources.class_names import cell_names, separator_in
from shards.sources.disk import as_path, is_key
from shards.taxonomy import Taxonomy

_COLUMNS = ("image", "labels", "unknown", "split")
_ALL_OTHERS = "*"
_PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")
_NUMBERED_LABEL = re.compile(r"(?i)(labels?|class(es)?)[ ._-]?\d+")
_OTHER_NAMES = {
    "image": frozenset(
        (
            "image",
            "images",
            "imageid",
            "imagename",
            "imagepath",
            "file",
            "filename",
            "filepath",
            "path",
            "img",
            "imgpath",
        )
    ),
    "labels": frozenset(
        ("label", "labels", "class", "classes", "classname", "category", "categories", "tag", "tags", "target")
    ),
    "split": frozenset(("split", "splits", "subset", "set", "partition")),
}
"""Column -> names that other tools use for it."""
_SET = frozenset({"1", "1.0", "True", "true", "TRUE"})
_FLAGS = _SET | {"", "0", "0.0", "False", "false", "FALSE", "-1"}
"""Cell values of a column that flags one class as present or absent."""


class _TableError(ValueError):
    """An error in a table as a whole, not in one line; the message contains its path."""


class Row(NamedTuple):
    """A line of a table."""

    line: int
    image: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...]


class Labelled(NamedTuple):
    """The labels of one image, combined from its rows."""

    ending: str
    """The file extension."""
    present: tuple[int, ...]
    """Class ids, ascending."""
    unknown: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The rows of one split in a table."""

    path: Path
    split: str
    separator: str
    """Separates the names in a cell."""
    other_splits: frozenset[str] = frozenset()
    """Other valid splits. A split in the table that resembles `split` but is not one of these counts as misspelt."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the split. Raises ValueError, naming file and line, for a row in another format."""
        if not self.path.is_file():
            raise ValueError(f"the table of split {self.split!r} does not exist: {self.path}")
        passed = set(self.other_splits)
        met: set[str] = set()
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            try:
                reader = csv.reader(file, strict=True, skipinitialspace=True, delimiter=_delimiter(file.readline()))
                file.seek(0)
                columns = _Columns(next(reader, []), self.separator)
                for cells in reader:
                    if not any(cells):
                        continue
                    split = columns.split(cells, self.split)
                    met.add(split)
                    if split == self.split:
                        yield columns.row(cells, line=reader.line_num)
                    elif split not in passed:
                        self._check_other(split)
                        passed.add(split)
                if flags := columns.flags():
                    raise _TableError(f"{self.path} {flags}")
                if self.split not in met:
                    others = f"; it has rows of {', '.join(sorted(met)[:9])}" if met else ""
                    raise _TableError(f"{self.path} has no rows of split {self.split!r}{others}")
            except _TableError:
                raise
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.path} is not UTF-8 text: {error}") from None
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{self.path}, line {max(reader.line_num, 1)}: {error}") from None

    def form(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of the columns, and the splits of the rows in their order; one without a name if there is no
        column `split`. Raises ValueError as `rows` does for its header."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            try:
                reader = csv.reader(file, skipinitialspace=True, delimiter=_delimiter(file.readline()))
                file.seek(0)
                columns = _Columns(next(reader, []), self.separator)
                splits = dict.fromkeys(columns.split(cells, "") for cells in reader if any(cells))
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.path} is not UTF-8 text: {error}") from None
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{self.path}, line {max(reader.line_num, 1)}: {error}") from None
        return tuple(columns.names), tuple(splits)

    def _check_other(self, split: str) -> None:
        if _near(split, [self.split]):
            raise ValueError(
                f"the split {split!r} resembles {self.split!r}; use that name, or give a table for {split!r} in lists"
            )

    def names(self) -> dict[str, int]:
        """All class names in the rows, with the line where each first occurs."""
        found: dict[str, int] = {}
        for row in self.rows():
            for name in (*row.labels, *row.unknown):
                found.setdefault(name, row.line)
        found.pop(_ALL_OTHERS, None)
        return found

    def images(self, classes: Taxonomy) -> dict[str, Labelled]:
        """Path of an image without its file extension -> its labels, in the order of the first rows.

        Raises ValueError, naming file and line, for names that are not a class and for contradictory rows.
        """
        found: dict[str, Labelled] = {}
        # Cached, since a table has few distinct sets of labels.
        known: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for row in self.rows():
            key, ending = posixpath.splitext(row.image)
            ending = sys.intern(ending)
            named = (row.labels, row.unknown)
            try:
                if named not in known:
                    known[named] = _ids(row, classes, separator=self.separator)
                if (entry := found.get(key)) and entry.ending != ending:
                    raise ValueError(f"{row.image} and {key}{entry.ending} differ only in their extension; rename one")
            except ValueError as error:
                raise ValueError(f"{self.path}, line {row.line}: {error}") from None
            present, unknown = known[named]
            if entry:
                every_present = {*present, *entry.present}
                present, unknown = (
                    tuple(sorted(every_present)),
                    tuple(sorted({*unknown, *entry.unknown} - every_present)),
                )
            found[key] = Labelled(ending, present, unknown)
        return found


class _Columns:
    """The positions of a table's columns."""

    def __init__(self, header: list[str], separator: str) -> None:
        self._names = [name.strip() for name in header]
        if pictures := [name for name in self._names if name.lower().endswith(_PICTURES)]:
            raise ValueError(
                f"the first line is no header: it has {pictures[0][:80]!r}; put a line above it that names the "
                "columns, such as image,labels"
            )
        if "image" not in self._names:
            raise ValueError(
                f"the header has no column 'image'; it has {', '.join(self._names) or 'no columns'}"
                + (_meant(self._names, "image") or "; separate its columns with commas, semicolons or tabs")
            )
        if numbered := [name for name in self._names if _NUMBERED_LABEL.fullmatch(name)]:
            raise ValueError(
                f"the header has a column {numbered[0]!r}; write all class names of an image in the column 'labels', "
                f"separated by {separator!r}, or one row per name"
            )
        for name in _COLUMNS:
            if name not in self._names and (slips := _near(name, [n for n in self._names if n not in _COLUMNS])):
                raise ValueError(f"the header has a column {slips[0]!r}; did you mean {name!r}?")
        for name in ("labels", "split"):
            if name not in self._names and (hint := _meant(self._names, name)):
                raise ValueError(
                    f"the header has no column {name!r}{hint}, or rename that column if it holds something else"
                )
        if twice := [name for name in _COLUMNS if self._names.count(name) > 1]:
            raise ValueError(f"the header has the column {twice[0]!r} more than once")
        indices = (self._names.index(name) if name in self._names else None for name in _COLUMNS)
        self._image, self._labels, self._unknown, self._split = indices
        self._separator = separator
        self._known: dict[str, tuple[str, ...]] = {}  # cached, since a table has few distinct cells
        further = [index for index, name in enumerate(self._names) if name not in _COLUMNS]
        self._flags = further if self._labels is None else []
        self._shown = False

    @property
    def names(self) -> list[str]:
        return self._names

    def split(self, cells: list[str], default: str) -> str:
        """The split of a line. Raises ValueError if the line has another number of columns than the header."""
        if len(cells) != len(self._names):
            raise ValueError(
                f"{len(cells)} columns, but the header has {len(self._names)}; put a cell that contains a comma in "
                "double quotes"
            )
        return default if self._split is None else cells[self._split].strip()

    def row(self, cells: list[str], *, line: int) -> Row:
        assert self._image is not None, "checked above"
        image = as_path(cells[self._image].strip())
        if not is_key(image):
            raise ValueError(
                f"the image {image[:80]!r} is not a path relative to the root; write it without .. or a leading /, and "
                "separate folders with /"
            )
        if self._labels is None:
            self._flags = [index for index in self._flags if cells[index].strip() in _FLAGS]
            self._shown = self._shown or any(cells[index].strip() in _SET for index in self._flags)
            return Row(line, image, (), (_ALL_OTHERS,))
        unknown = () if self._unknown is None else self._class_names(cells[self._unknown])
        return Row(line, image, self._class_names(cells[self._labels]), unknown)

    def flags(self) -> str:
        """The error for a table with one column of flags per class, once its rows are read; empty if it is not one."""
        if len(self._flags) < 2 or not self._shown:
            return ""
        some = ", ".join(self._names[index] for index in self._flags[:3])
        return (
            f"has no column 'labels', and columns of 0 and 1 ({some}) are not supported; write the names of the "
            f"classes that an image shows in a column 'labels', separated by {self._separator!r}"
        )

    def _class_names(self, cell: str) -> tuple[str, ...]:
        if cell not in self._known:
            self._known[cell] = cell_names(cell, separator=self._separator)
        return self._known[cell]


def _meant(names: list[str], column: str) -> str:
    """A hint if a column has a name that other tools use for `column`; empty if there is none."""
    same = [name for name in names if re.sub(r"[\W_]", "", name.casefold()) in _OTHER_NAMES[column]]
    return f", but {same[0]!r}: rename it to {column!r}" if same else ""


def _delimiter(header: str) -> str:
    """The column separator: the one that gives the header a column 'image', else a comma."""
    for delimiter in (",", ";", "\t", "|"):
        if "image" in (name.strip(' \t\r\n"\ufeff') for name in header.split(delimiter)):
            return delimiter
    return ","


def _near(name: str, others: list[str]) -> list[str]:
    """The other names that may be misspellings of `name`."""
    folded = {other.casefold(): other for other in others}
    return [folded[near] for near in difflib.get_close_matches(name.casefold(), list(folded), cutoff=0.8)]


def _ids(row: Row, classes: Taxonomy, *, separator: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the row's labels and of its unknown classes; both ascending."""
    try:
        present = {classes.id_of(name) for name in row.labels}
        unknown = {classes.id_of(name) for name in row.unknown if name != _ALL_OTHERS}
    except ValueError as error:
        if any(separator_in(name, classes.names) for name in (*row.labels, *row.unknown) if name not in classes.names):
            raise ValueError(f"{error}; label_separator is {separator!r}") from None
        raise
    if both := present & unknown:
        raise ValueError(f"{classes.name_of(min(both))!r} is both a label and unknown; remove it from one column")
    if _ALL_OTHERS in row.unknown:
        unknown = set(range(1, len(classes) + 1)) - present
    return tuple(sorted(present)), tuple(sorted(unknown))
