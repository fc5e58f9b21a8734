"""The declaration of a table: `declared/NAME.toml` says which measurements it shows, and how.

    page = "tuning/README.md"                  the page with the marks <!-- table: NAME --> and <!-- /table -->
    recipe = "voc_labels"                      a shipped recipe
    set = ["defaults.pad_type=same"]           --set arguments of every measurement
    weights = "FILE.safetensors"               a file of weights, given by defaults.pretrained
    command = "wsss run voc_labels"            what makes the run records
    measured_before = { 2026-11-22 = "..." }   why older results of that day are shown, for the reader
    layout = "results"                         the rows of `wsss results`; or "cells": `columns` and `rows`

`not_measured.toml` lists the other Markdown tables of these pages, each with the reason why it has no run records.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BeforeValidator, Field, ValidationError

from wsss.contract.settings import settings
from wsss.pipeline.wrong_values import first_complaint

T = TypeVar("T")
DECLARED = Path(__file__).parent / "declared"
NOT_MEASURED = Path(__file__).parent / "not_measured.toml"
PAGES = ("README.md", "tuning/README.md")
"""Pages whose tables are checked."""
Show = Literal["percent", "interval", "number", "share", "difference"]


class TableError(ValueError):
    """A table that cannot be written; the message names the table, what is wrong and what to do."""


def _source(given: Any) -> Any:
    return {"instance": given} if isinstance(given, str) else given


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


@settings
class Source:
    """One measurement: an instance of a recipe."""

    instance: str
    """Name of the instance whose run record has the metrics; of another recipe than the table's as RECIPE:INSTANCE."""
    set: tuple[str, ...] = ()
    """--set arguments, in addition to the table's."""


@settings
class TableColumn:
    """A column of the layout `cells`: text of the row, or metrics of one of its sources."""

    title: str
    """The heading."""
    metric: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Names of metrics in the run record; several are shown one after the other. If empty, the column shows text."""
    source: str = "measured"
    """Which of the row's sources is read; the cell is empty if the row has no source of this name."""
    show: Show = "percent"
    """`interval`: mean IoU with its interval. `number`: two decimals. `share`: percent of the row that `of` names.
    `difference`: the metric of `source` less that of the row's source `less`, in points."""
    less: str = ""
    """difference: which of the row's sources is subtracted."""
    best: bool = False
    """Print the largest value in bold."""
    optional: bool = False
    """Leave the cell empty if the run record has no such metric."""


@settings
class TableRow:
    """A row of the layout `cells`."""

    text: Annotated[tuple[str, ...], BeforeValidator(_listed)]
    """The cells of the columns without a metric, in order."""
    sources: dict[str, Annotated[Source, BeforeValidator(_source)]]
    """Name of a source, as in the columns -> measurement."""
    of: str = ""
    """First text of the row that `share` divides by; if empty, the cell is empty."""


@settings
class DeclaredTable:
    """The content of `declared/NAME.toml`."""

    page: Literal["README.md", "tuning/README.md"]
    """Page with the table's marks."""
    recipe: str
    """Name of a shipped recipe."""
    set: tuple[str, ...] = ()
    """--set arguments of every measurement."""
    weights: str = ""
    """Name of a file with the encoder's weights; it is recorded with its SHA-256, and no part of the digest."""
    command: str
    """The command that makes the run records."""
    layout: Literal["results", "cells"] = "cells"
    """`results`: the evaluations of the recipe, as `wsss results` shows them. `cells`: `columns` and `rows`."""
    instances: tuple[str, ...] = ()
    """results: only these evaluations; all if empty."""
    columns: tuple[TableColumn, ...] = ()
    """cells: the columns."""
    rows: tuple[TableRow, ...] = ()
    """cells: the rows."""
    measured_before: dict[Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")], str] = Field(default_factory=dict)
    """Date of measuring -> reason for showing results of that day that belong to other settings or code than this
    tree's. Printed under the table."""


@settings
class OtherTable:
    """A Markdown table of a page that is not written from run records."""

    page: Literal["README.md", "tuning/README.md"]
    """The page."""
    header: str
    """The titles of its columns, with ` | ` between them."""
    reason: str
    """Why there are no run records."""


def read_declarations(folder: Path = DECLARED) -> dict[str, DeclaredTable]:
    """Name -> declaration, of all tables. Raises `TableError`."""
    found = {path.stem: _built(DeclaredTable, _read(path), path.stem) for path in sorted(folder.glob("*.toml"))}
    for name, table in found.items():
        _check_layout(name, table)
    return found


def read_other_tables(path: Path = NOT_MEASURED) -> list[OtherTable]:
    """The tables that are not written from run records. Raises `TableError`."""
    content = _read(path)
    if set(content) != {"tables"}:
        raise TableError(f"{path.name} consists of [[tables]], each with page, header and reason")
    return [_built(OtherTable, table, f"{path.name}: table {i + 1}") for i, table in enumerate(content["tables"])]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TableError(f"{path.name} cannot be read: {error}") from None


def _built(cls: type[T], content: dict[str, Any], where: str) -> T:
    try:
        return cls(**content)
    except ValidationError as error:
        raise TableError(first_complaint(error, where, known=[one.name for one in fields(cast(Any, cls))])) from None


def _check_layout(name: str, table: DeclaredTable) -> None:
    if table.layout == "results":
        if table.columns or table.rows:
            raise TableError(f"table {name}: layout = 'results' has fixed columns and rows; remove columns and rows")
        return
    if not table.columns or not table.rows or table.instances:
        raise TableError(f"table {name}: layout = 'cells' needs columns and rows, and reads no instances")
    texts = sum(not column.metric for column in table.columns)
    if wrong := [column.title for column in table.columns if (column.show == "difference") != bool(column.less)]:
        raise TableError(f"table {name}: column {wrong[0]!r}: show = 'difference' and less are only given together")
    known = {source for column in table.columns if column.metric for source in (column.source, column.less)}
    first = [row.text[0] for row in table.rows]
    for row in table.rows:
        if len(row.text) != texts:
            raise TableError(f"table {name}: row {row.text[0]!r} has {len(row.text)} texts for {texts} columns of text")
        if unknown := sorted(set(row.sources) - known):
            raise TableError(f"table {name}: row {row.text[0]!r} has a source {unknown[0]!r} that no column reads")
        if row.of and first.count(row.of) != 1:
            raise TableError(f"table {name}: row {row.text[0]!r}: there is no single row {row.of!r} to divide by")
