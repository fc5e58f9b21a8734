"""HTML of tables, figures and images. Every text from outside is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from html import escape

from wsss.report.tables import Column, Table, text_of

_SHORT = 24
"""Text up to this length does not wrap."""


def attribute(text: object) -> str:
    """Text inside a quoted attribute."""
    return escape(str(text), quote=True)


def table_html(table: Table, *, caption: str = "", is_tall: bool = False, without: Collection[str] = ()) -> str:
    """A table that scrolls by itself, reachable by the keyboard; empty if it is only for data.

    `without`: keys of columns that are left out.
    """
    if table.data_only:
        return ""
    columns = [
        (place, column)
        for place, column in enumerate(table.columns)
        if column.role != "data" and column.key not in without and any(text_of(row[place]) for row in table.rows)
    ]
    title = caption or table.title
    if not table.rows:
        return "".join(f'<p class="note">{escape(title)}: {escape(note)}</p>' for note in table.notes)
    head = [f'<th scope="col"{_right(column.right)}>{_heading(column)}</th>' for _, column in columns]
    body = []
    for row in table.rows:
        cells = []
        for number, (place, column) in enumerate(columns):
            text = escape(text_of(row[place], unknown="–"))
            kind = "r" if column.right else "k" if len(text) <= _SHORT else ""
            start = f'<th scope="row" class="{kind}">' if number == 0 else f'<td class="{kind}">'
            cells.append(f"{start}{text}</{'th' if number == 0 else 'td'}>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return scrolling(table_of_parts(title, head, body), label=title, is_tall=is_tall) + notes


def _heading(column: Column) -> str:
    """The title, or for a column without one its name, which only screen readers say."""
    name = column.key.replace("_", " ")
    return escape(column.title) or f'<span class="said">{escape(name)}</span>'


def _right(right: bool) -> str:
    return ' class="r"' if right else ""


def table_of_parts(caption: str, head: Iterable[str], body: Iterable[str], *, kind: str = "") -> str:
    """A table from finished header cells and rows."""
    start = f'<table class="{kind}">' if kind else "<table>"
    return (
        f"{start}<caption>{escape(caption)}</caption><thead><tr>{''.join(head)}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def scrolling(html: str, *, label: str, is_tall: bool = False) -> str:
    """A region that scrolls, with a name, which the keyboard can reach."""
    kind = "scroll tall" if is_tall else "scroll"
    return f'<div class="{kind}" role="group" tabindex="0" aria-label="{attribute(label)}">{html}</div>'


def details(summary: str, html: str) -> str:
    """A part that is closed at first."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def image_html(jpeg: bytes, *, alt: str, size: tuple[int, int]) -> str:
    """An image inside the page; `size`: (height, width)."""
    data = base64.b64encode(jpeg).decode()
    height, width = size
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{attribute(alt)}" width="{width}" height="{height}" '
        'loading="lazy">'
    )


def data_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[float | str | None]]) -> str:
    """The numbers behind a figure, closed at first."""
    head = [f'<th scope="col" class="r">{escape(column)}</th>' for column in columns]
    body = ["<tr>" + "".join(f'<td class="r">{escape(_number(value))}</td>' for value in row) + "</tr>" for row in rows]
    table = table_of_parts(caption, head, body)
    return details("Numbers of this figure", scrolling(table, label=caption, is_tall=True))


def _number(value: float | str | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.5g}"
