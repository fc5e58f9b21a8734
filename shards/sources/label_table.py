"""Image-level labels in a table: a CSV file with a header line, UTF-8, commas between the columns.

| column | holds |
|---|---|
| `image` | the image's path below the root, with its ending |
| `labels` | class names with a separator between them; nothing where the image shows none of the classes |
| `unknown` | class names whose presence nobody checked; `*` for all that are not among the labels; may be left out |
| `split` | the split the row belongs to; may be left out where every split has a table of its own |

Rows of the same image add up, so one row for each label will do. Without a column `labels` nobody labelled the images:
every class is unknown. Further columns are not read.
"""

from __future__ import annotations

import csv
import difflib
import posixpath
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shards.sources.disk import is_key
from shards.taxonomy import Taxonomy

_COLUMNS = ("image", "labels", "unknown", "split")
_ALL_OTHERS = "*"


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
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                columns = _Columns(next(reader, []), self.separator)
                for cells in reader:
                    if not any(cells):
                        continue
                    split = columns.split(cells, self.split)
                    if split == self.split:
                        yield columns.row(cells, line=reader.line_num)
                    elif split not in passed:
                        self._check_other(split)
                        passed.add(split)
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.path} is not UTF-8 text: {error}") from None
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{self.path}, line {max(reader.line_num, 1)}: {error}") from None

    def _check_other(self, split: str) -> None:
        if _near(split, [self.split]):
            raise ValueError(
                f"the split {split!r} is near {self.split!r}; write that, or name the other one's table in lists"
            )

    def names(self) -> set[str]:
        """All class names of the rows."""
        return {name for row in self.rows() for name in (*row.labels, *row.unknown)} - {_ALL_OTHERS}

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
                    known[named] = _ids(row, classes)
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
        if not found:
            raise ValueError(f"{self.path} has no rows of split {self.split!r}")
        return found


class _Columns:
    """Where a table's columns stand."""

    def __init__(self, header: list[str], separator: str) -> None:
        self._names = [name.strip() for name in header]
        if "image" not in self._names:
            raise ValueError(f"the header has no column 'image'; it names {', '.join(self._names) or 'nothing'}")
        for name in _COLUMNS:
            if name not in self._names and (slips := _near(name, [n for n in self._names if n not in _COLUMNS])):
                raise ValueError(f"the header names a column {slips[0]!r}; did you mean {name!r}?")
        if twice := [name for name in _COLUMNS if self._names.count(name) > 1]:
            raise ValueError(f"the header names {twice[0]!r} more than once")
        places = (self._names.index(name) if name in self._names else None for name in _COLUMNS)
        self._image, self._labels, self._unknown, self._split = places
        self._separator = separator
        self._told: dict[str, tuple[str, ...]] = {}  # a table has few distinct cells of names

    def split(self, cells: list[str], default: str) -> str:
        """The split that a line belongs to. Raises ValueError for a line of another number of columns."""
        if len(cells) != len(self._names):
            raise ValueError(f"{len(cells)} columns, the header has {len(self._names)}")
        return default if self._split is None else cells[self._split].strip()

    def row(self, cells: list[str], *, line: int) -> Row:
        assert self._image is not None, "checked above"
        if not is_key(image := cells[self._image].strip()):
            raise ValueError(f"the image {image[:80]!r} is no path below the root, with slashes between its parts")
        if self._labels is None:
            return Row(line, image, (), (_ALL_OTHERS,))
        unknown = () if self._unknown is None else self._class_names(cells[self._unknown])
        return Row(line, image, self._class_names(cells[self._labels]), unknown)

    def _class_names(self, cell: str) -> tuple[str, ...]:
        if cell not in self._told:
            self._told[cell] = tuple(name for part in cell.split(self._separator) if (name := part.strip()))
        return self._told[cell]


def _near(name: str, others: list[str]) -> list[str]:
    """The others that may be the same name with a slip."""
    return difflib.get_close_matches(name, others, cutoff=0.8)


def _ids(row: Row, classes: Taxonomy) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the row's labels, and of what is unknown; both ascending."""
    present = {classes.id_of(name) for name in row.labels}
    unknown = {classes.id_of(name) for name in row.unknown if name != _ALL_OTHERS}
    if both := present & unknown:
        raise ValueError(f"{classes.name_of(min(both))!r} is both among the labels and unknown")
    if _ALL_OTHERS in row.unknown:
        unknown = set(range(1, len(classes) + 1)) - present
    return tuple(sorted(present)), tuple(sorted(unknown))
