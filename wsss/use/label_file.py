"""LABELS of `wsss label-folder`: the pictures that a table names, and what is odd about its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.sources.label_table import LabelTable, Row
from shards.taxonomy import Taxonomy
from shards.wording import counted
from wsss.use.picture_folder import SPLIT

SEPARATOR = "|"
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """What a table of labels names."""

    pictures: tuple[str, ...]
    """Paths below the folder of pictures, in the order of the rows."""
    notes: tuple[str, ...]
    """Sentences for the user, about pictures that have several rows."""


def read_labels(table: Path, root: Path, classes: Taxonomy, *, split: str) -> LabelFile:
    """The pictures that a table of labels names. `split`: only the rows of this split; empty if none was asked for.

    Raises ValueError, naming the line, for a class that is none of `classes`; naming both lines for a picture that has
    classes in one row and none in another; and, naming some, if pictures of the table are not in the folder.
    """
    _check_form(table, split=split)
    rows = LabelTable(path=table, split=split or SPLIT, separator=SEPARATOR)
    notes = _repeated(table, list(rows.rows()))
    named = [key + one.ending for key, one in rows.images(classes).items()]
    absent = [name for name in named if not (root / name).is_file()]
    if absent:
        some = ", ".join(absent[:_NAMED]) + (", …" if len(absent) > _NAMED else "")
        raise ValueError(
            f"{table} names {len(absent)} of {len(named)} pictures that are not in {root}: {some}. Write paths "
            "relative to that folder, with their extensions, or remove these rows"
        )
    return LabelFile(pictures=tuple(named), notes=notes)


def _check_form(table: Path, *, split: str) -> None:
    """Raise ValueError if the table has not the columns and rows that were asked for."""
    if not table.is_file():
        raise ValueError(f"LABELS = {table}: there is no such file; give a CSV file with the columns image and labels")
    columns, splits = LabelTable(path=table, split=SPLIT, separator=SEPARATOR).form()
    if "labels" not in columns:
        raise ValueError(
            f"LABELS = {table} has no column 'labels', which names the classes of each picture; it has "
            f"{', '.join(columns)}. Without labels, a segmenter makes masks: wsss predict-folder"
        )
    if split and "split" not in columns:
        raise ValueError(f"--split {split}: {table} has no column 'split'; leave --split out to read all its rows")
    if not splits:
        raise ValueError(f"LABELS = {table} names no picture; write a row for each one below the header")
    if "split" in columns and (split or SPLIT) not in splits:
        what = f"no rows of --split {split}" if split else "a column 'split'"
        raise ValueError(f"{table} has {what}; choose the rows with --split: there are {', '.join(splits)}")


def _repeated(table: Path, rows: list[Row]) -> tuple[str, ...]:
    """A note on pictures with several rows. Raises ValueError if one row names classes and another says none."""
    first: dict[str, Row] = {}
    again: dict[str, int] = {}
    for row in rows:
        before = first.setdefault(str(PurePosixPath(row.image)), row)
        if before is row:
            continue
        if bool(before.labels or before.unknown) != bool(row.labels or row.unknown):
            raise ValueError(
                f"{table}: {row.image} has classes in line {max(before, row, key=_size).line} and none in line "
                f"{min(before, row, key=_size).line}; remove one of the two lines"
            )
        again.setdefault(row.image, row.line)
    if not again:
        return ()
    some = ", ".join(f"{name} (lines {first[name].line} and {line})" for name, line in list(again.items())[:_NAMED])
    more = ", …" if len(again) > _NAMED else ""
    has = "has" if len(again) == 1 else "have"
    return (f"{counted(len(again), 'picture')} {has} several rows, whose labels are taken together: {some}{more}",)


def _size(row: Row) -> int:
    return len(row.labels) + len(row.unknown)
