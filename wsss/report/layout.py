"""Lay out a table for a given terminal width: nothing is truncated, and words are never broken.

If a table does not fit, these steps are taken in order: notes are moved under their rows; headers and text wrap between
words; the columns are split into several tables that repeat the name columns; a word longer than its column, such as
a path, is moved under its row. Widths are counted in terminal cells: wide characters count as two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from wsss.report.tables import Column, Table, pad, printable, text_of

_GAP = 2
_INDENT = "    "
_LONG_WORD = 24
"""A text column is at least as wide as its longest word, up to this; longer words are moved under their row."""


@dataclass(frozen=True)
class _Placed:
    """A column with the texts of its rows."""

    column: Column
    cells: tuple[str, ...]

    @property
    def natural(self) -> int:
        return max(map(cell_len, (self.column.title, *self.cells)))

    @property
    def least(self) -> int:
        """The minimum width: headers wrap between words, and so does text if the column allows it."""
        header = _longest_word(self.column.title)
        if not self.column.wraps:
            return max(header, *map(cell_len, self.cells), 0)
        return max(header, *(min(_longest_word(cell), _LONG_WORD) for cell in self.cells), 0)


def fit(table: Table, width: int) -> list[str]:
    """The lines of a table without its title, at most `width` cells wide unless a single word is longer.

    Of a table without rows only the notes: they say why it is empty.
    """
    if not table.rows and table.notes:
        return [line for note in table.notes for line in wrap(printable(note), width)]
    columns = _placed(table)
    notes = [one for one in columns if one.column.role == "note"]
    inline = [one for one in columns if one.column.role != "note"]
    if _total([one.natural for one in columns]) <= width:
        panels, notes = [columns], []
    else:
        panels = _panels(inline, width)
    lines: list[str] = []
    for number, panel in enumerate(panels):
        under = notes if number == len(panels) - 1 else []
        lines += [""] * bool(number) + list(_panel_lines(table, panel, under, width))
    notes_below = [line for note in table.notes for line in wrap(printable(note), width)]
    return [*lines, *([""] if notes_below else []), *notes_below]


def wrap(text: str, width: int, *, indent: str = "", hanging: str = "") -> list[str]:
    """Lines of whole words, at most `width` cells wide; a longer word is put on its own line.

    `indent` is put before the first line, `hanging` before the others.
    """
    lines: list[str] = []
    start, words = indent, ""
    for word in text.split(" "):
        longer = f"{words} {word}" if words else word
        if words and cell_len(start + longer) > width:
            lines.append((start + words).rstrip())
            start, longer = hanging, word
        words = longer
    return [*lines, (start + words).rstrip()]


def _placed(table: Table) -> list[_Placed]:
    """The columns that are not empty."""
    placed = []
    for place, column in enumerate(table.columns):
        cells = tuple(text_of(row[place], unknown="–") for row in table.rows)
        if column.role != "data" and (not table.rows or any(cell not in ("", "–") for cell in cells)):
            placed.append(_Placed(column, cells))
    return placed


def _panels(columns: Sequence[_Placed], width: int) -> list[list[_Placed]]:
    """The columns, split so that every part fits; each part begins with the name columns."""
    if _total([one.least for one in columns]) <= width:
        return [list(columns)]
    names = [one for one in columns if one.column.role == "name"] or list(columns[:1])
    panels: list[list[_Placed]] = [[]]
    for one in (one for one in columns if one not in names):
        if panels[-1] and _total([part.least for part in (*names, *panels[-1], one)]) > width:
            panels.append([])
        panels[-1].append(one)
    return [[*names, *panel] for panel in panels]


def _panel_lines(table: Table, columns: Sequence[_Placed], notes: Sequence[_Placed], width: int) -> Iterator[str]:
    # If the name columns fill the line, the other columns are moved under the row.
    beside = list(columns)
    under: list[_Placed] = []
    while len(beside) > 1 and _total([one.least for one in beside]) > width:
        under.insert(0, beside.pop())
    widths = _widths(beside, width)
    yield from _line([one.column.title for one in beside], beside, widths)
    yield "  ".join("─" * one for one in widths)
    for row in range(len(table.rows)):
        if row in table.sections and row:
            yield ""
        cells = [one.cells[row] for one in beside]
        long = [
            one.column.wraps and _longest_word(cell) > fits
            for one, cell, fits in zip(beside, cells, widths, strict=True)
        ]
        yield from _line(["" if moved else cell for cell, moved in zip(cells, long, strict=True)], beside, widths)
        for one in [*(one for one, moved in zip(beside, long, strict=True) if moved), *under, *notes]:
            if cell := one.cells[row]:
                yield from _under(one.column, cell, width)


def _under(column: Column, cell: str, width: int) -> Iterator[str]:
    """A cell under its row, with its header unless it is a note; only text wraps."""
    label = "" if column.role == "note" or not column.title else f"{column.title}: "
    if column.wraps or column.role == "note" or cell_len(_INDENT + label + cell) <= width:
        yield from wrap(label + cell, width, indent=_INDENT, hanging=_INDENT)
    else:
        yield from ((_INDENT + label).rstrip(), _INDENT + cell)


def _widths(columns: Sequence[_Placed], width: int) -> list[int]:
    """A width for every column: the minimum, plus a share of the remaining width, narrow columns first."""
    widths = [one.least for one in columns]
    left = width - _total(widths)
    for place in sorted(range(len(columns)), key=lambda place: columns[place].natural):
        wanted = columns[place].natural - widths[place]
        # Partial extra width helps wrapped text, but not a header that would still wrap.
        more = min(left, wanted) if columns[place].column.wraps or wanted <= left else 0
        widths[place] += more
        left -= more
    return widths


def _line(cells: Sequence[str], columns: Sequence[_Placed], widths: Sequence[int]) -> Iterator[str]:
    """One row, with as many lines as its tallest cell."""
    wrapped = [wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, wrapped))):
        parts = (
            pad(lines[number] if number < len(lines) else "", width, right=one.column.right)
            for lines, width, one in zip(wrapped, widths, columns, strict=True)
        )
        yield (" " * _GAP).join(parts).rstrip()


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split(" ")))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)
