"""Image-level labels in a table: a CSV file with a header line, UTF-8, commas (or semicolons, or tabs) between columns.

| column | holds |
|---|---|
| `image` | the image's path below the root, with its ending |
| `labels` | class names with a separator between them; nothing where the image shows none of the classes |
| `unknown` | class names whose presence nobody checked; `*` for all that are not among the labels; may be left out |
| `split` | the split the row belongs to; may be left out where every split has a table of its own |

Rows of the same image add up, so one row for each label will do. Without a column `labels` nobody labelled the images:
every class is unknown. Further columns are not read; those that look like labels (a number for each class) are refused.
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
"""Column -> what other tools call it."""
_SET = frozenset({"1", "1.0", "True", "true", "TRUE"})
_FLAGS = _SET | {"", "0", "0.0", "False", "false", "FALSE", "-1"}
"""Cells of a column that says of one class whether an image shows it."""


class _TableError(ValueError):
    """A fault of a table as a whole, not of one line; the message holds its path."""


class Row(NamedTuple):
    """A line of a table."""

    line: int
    image: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...]


class Labelled(NamedTuple):
    """What the rows of one image say."""

    ending: str
    """Of its file's name."""
    present: tuple[int, ...]
    """Class ids, ascending."""
    unknown: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The rows of one split in a table."""

    path: Path
    split: str
    separator: str
    """Stands between the names of a cell."""
    other_splits: frozenset[str] = frozenset()
    """Splits that rows may belong to besides; a name that is near `split` and none of these is taken for a slip."""

    def rows(self) -> Iterator[Row]:
        """Raises ValueError, with file and line, for what is no row of the form above."""
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

    def _check_other(self, split: str) -> None:
        if _near(split, [self.split]):
            raise ValueError(
                f"the split {split!r} is near {self.split!r}; write that, or name the other one's table in lists"
            )

    def names(self) -> dict[str, int]:
        """All class names of the rows, with the line where each is met first."""
        found: dict[str, int] = {}
        for row in self.rows():
            for name in (*row.labels, *row.unknown):
                found.setdefault(name, row.line)
        found.pop(_ALL_OTHERS, None)
        return found

    def images(self, classes: Taxonomy) -> dict[str, Labelled]:
        """Path of an image without its ending -> its labels, in the order of the first rows.

        Raises ValueError, with file and line, for names that are no class and for rows that contradict each other.
        """
        found: dict[str, Labelled] = {}
        # A table has few distinct sets of labels: each is looked up and kept once.
        known: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for row in self.rows():
            key, ending = posixpath.splitext(row.image)
            ending = sys.intern(ending)
            named = (row.labels, row.unknown)
            try:
                if named not in known:
                    known[named] = _ids(row, classes, separator=self.separator)
                if (entry := found.get(key)) and entry.ending != ending:
                    raise ValueError(f"{row.image} and {key}{entry.ending} differ in their ending alone; rename one")
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
    """Where a table's columns stand."""

    def __init__(self, header: list[str], separator: str) -> None:
        self._names = [name.strip() for name in header]
        if "image" not in self._names:
            raise ValueError(
                f"the header has no column 'image'; it names {', '.join(self._names) or 'nothing'}"
                + (_meant(self._names, "image") or "; write commas, semicolons or tabs between its columns")
            )
        if numbered := [name for name in self._names if _NUMBERED_LABEL.fullmatch(name)]:
            raise ValueError(
                f"the header names a column {numbered[0]!r}; write all names of an image in the column 'labels', with "
                f"{separator!r} between them, or a row for each"
            )
        for name in _COLUMNS:
            if name not in self._names and (slips := _near(name, [n for n in self._names if n not in _COLUMNS])):
                raise ValueError(f"the header names a column {slips[0]!r}; did you mean {name!r}?")
        for name in ("labels", "split"):
            if name not in self._names and (hint := _meant(self._names, name)):
                raise ValueError(f"the header has no column {name!r}{hint}, or rename that column where it is no such")
        if twice := [name for name in _COLUMNS if self._names.count(name) > 1]:
            raise ValueError(f"the header names {twice[0]!r} more than once")
        places = (self._names.index(name) if name in self._names else None for name in _COLUMNS)
        self._image, self._labels, self._unknown, self._split = places
        self._separator = separator
        self._known: dict[str, tuple[str, ...]] = {}  # a table has few distinct cells of names
        further = [place for place, name in enumerate(self._names) if name not in _COLUMNS]
        self._flags = further if self._labels is None else []
        self._shown = False

    def split(self, cells: list[str], default: str) -> str:
        """The split that a line belongs to. Raises ValueError for a line of another number of columns."""
        if len(cells) != len(self._names):
            raise ValueError(
                f"{len(cells)} columns, the header has {len(self._names)}; a cell with a comma in it stands in double "
                "quotes"
            )
        return default if self._split is None else cells[self._split].strip()

    def row(self, cells: list[str], *, line: int) -> Row:
        assert self._image is not None, "checked above"
        image = as_path(cells[self._image].strip())
        if not is_key(image):
            raise ValueError(f"the image {image[:80]!r} is no path below the root, with slashes between its parts")
        if self._labels is None:
            self._flags = [place for place in self._flags if cells[place].strip() in _FLAGS]
            self._shown = self._shown or any(cells[place].strip() in _SET for place in self._flags)
            return Row(line, image, (), (_ALL_OTHERS,))
        unknown = () if self._unknown is None else self._class_names(cells[self._unknown])
        return Row(line, image, self._class_names(cells[self._labels]), unknown)

    def flags(self) -> str:
        """What is wrong with a table of a column of flags for each class, once its rows are read; else nothing."""
        if len(self._flags) < 2 or not self._shown:
            return ""
        some = ", ".join(self._names[place] for place in self._flags[:3])
        return (
            f"has no column 'labels', and columns of 0 and 1 ({some}) are not read; write the names of the classes "
            f"that an image shows in a column 'labels', with {self._separator!r} between them"
        )

    def _class_names(self, cell: str) -> tuple[str, ...]:
        if cell not in self._known:
            self._known[cell] = cell_names(cell, separator=self._separator)
        return self._known[cell]


def _meant(names: list[str], column: str) -> str:
    """Words for a column that other tools call by another name than `column`; nothing where there is none."""
    same = [name for name in names if re.sub(r"[\W_]", "", name.casefold()) in _OTHER_NAMES[column]]
    return f", but {same[0]!r}: call it {column!r}" if same else ""


def _delimiter(header: str) -> str:
    """What stands between the columns: a comma, or what makes the header name a column 'image'."""
    for delimiter in (",", ";", "\t", "|"):
        if "image" in (name.strip(' \t\r\n"\ufeff') for name in header.split(delimiter)):
            return delimiter
    return ","


def _near(name: str, others: list[str]) -> list[str]:
    """The others that may be the same name with a slip."""
    folded = {other.casefold(): other for other in others}
    return [folded[near] for near in difflib.get_close_matches(name.casefold(), list(folded), cutoff=0.8)]


def _ids(row: Row, classes: Taxonomy, *, separator: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the row's labels, and of what is unknown; both ascending."""
    try:
        present = {classes.id_of(name) for name in row.labels}
        unknown = {classes.id_of(name) for name in row.unknown if name != _ALL_OTHERS}
    except ValueError as error:
        if any(separator_in(name, classes.names) for name in (*row.labels, *row.unknown) if name not in classes.names):
            raise ValueError(f"{error}; label_separator is {separator!r}") from None
        raise
    if both := present & unknown:
        raise ValueError(f"{classes.name_of(min(both))!r} is both among the labels and unknown")
    if _ALL_OTHERS in row.unknown:
        unknown = set(range(1, len(classes) + 1)) - present
    return tuple(sorted(present)), tuple(sorted(unknown))
