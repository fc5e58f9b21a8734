"""Tables of all commands: rows of typed cells, as text for a terminal or a pipe, as Markdown, as CSV, as JSON.

| where it goes | form |
|---|---|
| a terminal | fits its width and never truncates: text wraps, notes are placed under their row (`layout.py`) |
| a pipe or a file | one line per row, columns separated by two or more spaces, `-` for an empty cell; nothing wraps |
| `--csv`, `--json` | raw values: fractions in [0, 1], bytes, seconds; column names in snake_case |
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.cells import cell_len


@dataclass(frozen=True)
class Shown:
    """A cell whose text differs from its value."""

    value: Any
    """In JSON types."""
    text: str


_PLAIN_WIDEST = 48
"""Longer cells do not widen their column; they shift the following cells of their own row to the right."""

_MARKS = re.compile(r"([\\`*|<>\[\]$])|(?<![^\W_])(_)|(_)(?![^\W_])")
"""Characters with a meaning in Markdown or in GitHub's mathematics; `_` inside a word has none."""

Cell = str | int | float | bool | None | Shown
"""None if the value is unknown or does not apply."""


@dataclass(frozen=True)
class Column:
    """A column; `key` is its name in CSV and JSON."""

    title: str
    key: str
    right: bool = False
    """Align to the right, as numbers are."""
    wraps: bool = False
    """True for text that may wrap between words on a narrow terminal."""
    role: Literal["value", "name", "note", "data", "drawing"] = "value"
    """`name`: identifies the row, and is repeated if a wide table is split. `note`: text that a narrow terminal shows
    under its row. `data`: only for CSV and JSON; `drawing`: only for text output."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A title, columns, rows, and lines below the table."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    sections: frozenset[int] = frozenset()
    """Indices of rows that a terminal shows after an empty line."""
    data_only: bool = False
    """True for a table that is only written to CSV and JSON; the text output shows its content in another form."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells for {len(self.columns)} columns")


@dataclass(frozen=True, kw_only=True)
class Page:
    """The output of a command: lines, then its tables by name."""

    heading: tuple[str, ...] = ()
    tables: Mapping[str, Table]
    main: str = ""
    """The table that `--csv` prints if `--table` is not given; if empty, the first one."""

    def only(self, name: str) -> Page:
        """The page with only one of its tables, as text too. Raises ValueError for an unknown name."""
        if name not in self.tables:
            raise ValueError(f"--table {name}: unknown table; there are {', '.join(self.tables)}")
        table = self.tables[name]
        notes = table.notes if table.rows or table.notes else ("it has no rows",)
        return Page(tables={name: replace(table, data_only=False, notes=notes)})


def text_of(cell: Cell, *, unknown: str = "") -> str:
    """The text of a cell; control characters are written as escapes, so that each row is one line."""
    if isinstance(cell, Shown):
        return printable(cell.text)
    if cell is None:
        return unknown
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:g}" if isinstance(cell, float) else printable(str(cell))


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes written as escapes (`\\n`, `\\x1b`)."""
    return "".join(repr(char)[1:-1] if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)


def percent(value: float | None, *, digits: int = 1, sign: str = "") -> Shown | None:
    """A fraction as percent; `sign="+"` always writes the sign."""
    return None if value is None else Shown(value, f"{100 * value:{sign}.{digits}f}")


def plain(table: Table) -> str:
    """For pipes and files: title, header, one line per row, notes; columns are separated by two or more spaces.

    Of a table without rows only the title and the notes: they say why it is empty.
    """
    columns = [place for place, column in enumerate(table.columns) if column.role != "data"]
    lines = [[table.columns[place].title for place in columns]]
    lines += [[text_of(row[place]) or "-" for place in columns] for row in table.rows]
    widths = [_plain_width([cell_len(line[at]) for line in lines]) for at in range(len(columns))]
    rights = [table.columns[place].right for place in columns]
    padded: Iterable[str] = (
        "  ".join(pad(cell, width, right=right) for cell, width, right in zip(line, widths, rights, strict=True))
        for line in lines
    )
    head = [printable(table.title)] if table.title else []
    if not table.rows and table.notes:
        padded = ()
    return "".join(f"{line.rstrip()}\n" for line in (*head, *padded, *map(printable, table.notes)))


def _plain_width(lengths: Sequence[int]) -> int:
    """The length of the longest cell, ignoring cells longer than `_PLAIN_WIDEST`."""
    return max(length for length in (0, *lengths) if length <= _PLAIN_WIDEST)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Text padded to `width` terminal cells."""
    spaces = " " * max(0, width - cell_len(text))
    return spaces + text if right else text + spaces


def markdown(table: Table) -> str:
    """The rows as a Markdown table, without the title and the notes."""
    columns = [place for place, column in enumerate(table.columns) if column.role != "data"]
    lines = [
        [markdown_text(table.columns[place].title) for place in columns],
        ["---:" if table.columns[place].right else "---" for place in columns],
        *([markdown_text(text_of(row[place])) for place in columns] for row in table.rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_text(text: str) -> str:
    """Plain text in one line, with Markdown's special characters escaped."""
    return _MARKS.sub(lambda found: "\\" + found[0], " ".join(text.split()))


def records(table: Table) -> list[dict[str, Any]]:
    """Column key -> value, of every row."""
    kept = [(place, column.key) for place, column in enumerate(table.columns) if column.role != "drawing"]
    return [{key: _value(row[place]) for place, key in kept} for row in table.rows]


def _value(cell: Cell) -> Any:
    return cell.value if isinstance(cell, Shown) else cell


def as_csv(table: Table) -> str:
    """The rows with a header; a value that is not a string or a number is written as JSON, None as an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.key for column in table.columns if column.role != "drawing"])
    for record in records(table):
        writer.writerow([_csv_cell(value) for value in record.values()])
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    plain_value = value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
    return value if plain_value else json.dumps(value, ensure_ascii=False)


def as_json(page: Page) -> str:
    """An object with a list of rows for every table, and the page's other lines under `notes`."""
    notes = [*page.heading, *(note for table in page.tables.values() for note in table.notes)]
    content: dict[str, Any] = {"notes": list(dict.fromkeys(notes))} if notes else {}
    content |= {name: records(table) for name, table in page.tables.items()}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def joined(pages: Sequence[Page]) -> Page:
    """Pages of the same kind merged: tables with the same name are joined, with the union of their columns."""
    tables: dict[str, Table] = {}
    for page in pages:
        for name, table in page.tables.items():
            tables[name] = _both(tables[name], table) if name in tables else table
    heading = tuple(line for page in pages for line in page.heading)
    return Page(heading=heading, tables=tables, main=pages[0].main)


def _both(first: Table, second: Table) -> Table:
    """The rows of two tables; cells of a column that one of them lacks are None."""
    columns = {column.key: column for column in (*first.columns, *second.columns)}
    rows = []
    for table in (first, second):
        places = {column.key: place for place, column in enumerate(table.columns)}
        rows += [tuple(row[places[key]] if key in places else None for key in columns) for row in table.rows]
    return replace(first, columns=tuple(columns.values()), rows=tuple(rows), notes=first.notes + second.notes)


def table_of(title: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], **more: Any) -> Table:
    """A table from lists."""
    return Table(title=title, columns=tuple(columns), rows=tuple(tuple(row) for row in rows), **more)
