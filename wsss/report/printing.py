"""Print a page: laid out for a terminal, as plain text for a pipe, or as CSV or JSON for programs."""

from __future__ import annotations

import sys
from typing import Literal, TextIO

from rich.console import Console
from rich.text import Text

from wsss.contract.closed_output import ReaderGoneError
from wsss.pipeline.console import plain_console
from wsss.report.layout import fit, wrap
from wsss.report.tables import Page, Table, as_csv, as_json, plain, printable

Form = Literal["text", "csv", "json"]


def print_page(page: Page, *, form: Form = "text", only: str = "", out: TextIO | None = None) -> None:
    """Print a page, or `only` one of its tables. Raises ValueError for a table that it does not have, and
    `ReaderGoneError` if nobody reads the output."""
    page = page.only(only) if only else page
    try:
        _print(page, form, out or sys.stdout)
        (out or sys.stdout).flush()
    except BrokenPipeError:
        raise ReaderGoneError from None  # as in `wsss plan RECIPE | head`


def _print(page: Page, form: Form, out: TextIO) -> None:
    if form == "json":
        out.write(as_json(page))
    elif form == "csv":
        out.write(as_csv(page.tables[page.main or next(iter(page.tables))]))
    else:
        _print_text(page, plain_console(file=out))


def print_table(table: Table, *, out: TextIO | None = None) -> None:
    """Print a single table."""
    print_page(Page(tables={"table": table}), out=out)


def _print_text(page: Page, console: Console) -> None:
    tables = [table for table in page.tables.values() if not table.data_only]
    if not console.is_terminal:
        parts = [plain(table) for table in tables]
        heading = "".join(f"{printable(line)}\n" for line in page.heading)
        console.file.write("\n".join([*([heading] if heading else []), *parts]))
        return
    width = console.width
    for line in page.heading:
        _put(console, wrap(printable(line), width))
    for number, table in enumerate(tables):
        if number or page.heading:
            _put(console, [""])
        if table.title:
            _put(console, wrap(printable(table.title), width), style="bold")
        _put(console, fit(table, width))


def _put(console: Console, lines: list[str], *, style: str = "") -> None:
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)
