"""Tables of all commands: rows of typed cells, as text for a terminal or a pipe, as Markdown, as CSV, as JSON.

| where it goes | form |
|---|---|
| a terminal | fits its width and never cuts a number or a name: text wraps, notes stand under their row (`layout.py`) |
| a pipe or a file | one line per row, columns apart by two spaces or more, `-` where a cell is empty; nothing wraps |
| `--csv`, `--json` | values as they are: shares in [0, 1], bytes, seconds; column names in snake_case |
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.cells import cell_len


@dataclass(frozen=True)
class Shown:
    """A cell whose text is not simply its value."""

    value: Any
    """In JSON's types."""
    text: str


_PLAIN_WIDEST = 48
"""Cells longer than this push what stands behind them to the right, in their own row alone."""

_MARKS = re.compile(r"([\\`*|<>\[\]$])|(?<![^\W_])(_)|(_)(?![^\W_])")
"""What Markdown, and GitHub's mathematics in it, would read as its own; `_` inside a word is none of it."""

Cell = str | int | float | bool | None | Shown
"""None where the value is unknown or does not apply."""


@dataclass(frozen=True)
class Column:
    """A column; `key` is its name in CSV and JSON."""

    title: str
    key: str
    right: bool = False
    """Align to the right, as numbers are."""
    wraps: bool = False
    """True for text that may be broken between words where a terminal is narrow."""
    role: Literal["value", "name", "note", "data", "drawing"] = "value"
    """`name`: says which row this is, and is repeated where a wide table is split. `note`: text that a narrow terminal
    puts under its row. `data`: for CSV and JSON alone; `drawing`: for people alone."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A title, columns, rows, and lines that stand under the table."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    sections: frozenset[int] = frozenset()
    """Rows before which a terminal leaves a line empty."""
    data_only: bool = False
    """True for a table that CSV and JSON have, and people read in other words."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells for {len(self.columns)} columns")


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a command prints: lines, then its tables by name."""

    heading: tuple[str, ...] = ()
    tables: Mapping[str, Table]
    main: str = ""
    """The table that `--csv` prints where `--table` names none; the first one where empty."""

    def only(self, name: str) -> Page:
        """The page with one of its tables. Raises ValueError for a name that it does not have."""
        if name not in self.tables:
            raise ValueError(f"--table {name}: there are {', '.join(self.tables)}")
        return Page(tables={name: self.tables[name]})


def text_of(cell: Cell, *, unknown: str = "") -> str:
    """A cell as it is read; control characters are written as escapes, so that each row is one line."""
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
    """A share as percent; `sign="+"` always writes the sign."""
    return None if value is None else Shown(value, f"{100 * value:{sign}.{digits}f}")


def plain(table: Table) -> str:
    """For pipes and files: title, header, one line per row, notes; columns stand at least two spaces apart."""
    columns = [place for place, column in enumerate(table.columns) if column.role != "data"]
    lines = [[table.columns[place].title for place in columns]]
    lines += [[text_of(row[place]) or "-" for place in columns] for row in table.rows]
    widths = [_plain_width([cell_len(line[at]) for line in lines]) for at in range(len(columns))]
    rights = [table.columns[place].right for place in columns]
    padded = (
        "  ".join(pad(cell, width, right=right) for cell, width, right in zip(line, widths, rights, strict=True))
        for line in lines
    )
    head = [printable(table.title)] if table.title else []
    return "".join(f"{line.rstrip()}\n" for line in (*head, *padded, *map(printable, table.notes)))


def _plain_width(lengths: Sequence[int]) -> int:
    """As wide as the longest cell; a few very long ones are not made room for in all other rows."""
    return max(length for length in (0, *lengths) if length <= _PLAIN_WIDEST)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Text filled up to `width` terminal cells."""
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
    """Plain text, in one line, with what Markdown would take for its own marks escaped."""
    return _MARKS.sub(lambda found: "\\" + found[0], " ".join(text.split()))


def records(table: Table) -> list[dict[str, Any]]:
    """Column key -> value, of every row."""
    kept = [(place, column.key) for place, column in enumerate(table.columns) if column.role != "drawing"]
    return [{key: _value(row[place]) for place, key in kept} for row in table.rows]


def _value(cell: Cell) -> Any:
    return cell.value if isinstance(cell, Shown) else cell


def as_csv(table: Table) -> str:
    """The rows with a header; a value that is not a string or a number is written as JSON, None as nothing."""
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
    """An object with a list of rows for every table, and under `notes` the lines that stand beside them."""
    notes = [*page.heading, *(note for table in page.tables.values() for note in table.notes)]
    content: dict[str, Any] = {"notes": notes} if notes else {}
    content |= {name: records(table) for name, table in page.tables.items()}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def joined(pages: Sequence[Page]) -> Page:
    """One page of pages of one kind: tables of the same name become one, with the columns of all."""
    tables: dict[str, Table] = {}
    for page in pages:
        for name, table in page.tables.items():
            tables[name] = _both(tables[name], table) if name in tables else table
    heading = tuple(line for page in pages for line in page.heading)
    return Page(heading=heading, tables=tables, main=pages[0].main)


def _both(first: Table, second: Table) -> Table:
    """The rows of two tables; a column that one of them lacks has no value there."""
    columns = {column.key: column for column in (*first.columns, *second.columns)}
    rows = []
    for table in (first, second):
        places = {column.key: place for place, column in enumerate(table.columns)}
        rows += [tuple(row[places[key]] if key in places else None for key in columns) for row in table.rows]
    return replace(first, columns=tuple(columns.values()), rows=tuple(rows), notes=first.notes + second.notes)


def table_of(title: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], **more: Any) -> Table:
    """A table of lists."""
    return Table(title=title, columns=tuple(columns), rows=tuple(tuple(row) for row in rows), **more)
