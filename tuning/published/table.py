"""The table `NAME.toml` of a published system: each setting of its recipe beside the published value and its source.

    recipe = "NAME"                                    a shipped recipe
    [sources]                                          abbreviation -> repository at a commit, paper, slides
    [[scores]]                                         what, published, instance of evaluate that measures it, source
    [settings.INSTANCE]                                or "INSTANCE INSTANCE": rows of the same values
    a = { published = 1, source = "code: file" }       the recipe has the published value
    b = { published = "8,000 steps", ours = 3, source = "code: file", differs = "why" }
    c = { ours = 2, unpublished = "why it is not known" }
    [[differs]]                                        what no setting expresses: what, published, ours, reason

`unverified = true`: the source is not the system's own, or it is recalled.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsss.contract.settings import resolved_values, settings
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.wrong_values import first_complaint

TABLES = Path(__file__).parent


class PublishedError(ValueError):
    """A table that does not agree with its recipe; the message names both values."""


@settings
class Row:
    """One setting."""

    published: Any = None
    """The published value; text if a setting cannot express it."""
    ours: Any = None
    """The recipe's value, if it is not the published one."""
    source: str = ""
    """Where the published value is from: an abbreviation of `sources`, a colon, the file or number."""
    differs: str = ""
    """Why the recipe has another value."""
    unpublished: str = ""
    """Why the published value is not known."""
    unverified: bool = False
    """True if the source is not the system's own."""


@settings
class Score:
    """A published result."""

    what: str
    published: str
    instance: str
    """The instance of evaluate that measures it."""
    source: str


@settings
class Difference:
    """What no setting expresses."""

    what: str
    published: str
    ours: str
    reason: str


@settings
class Published:
    """The content of a table."""

    recipe: str
    sources: dict[str, str]
    scores: tuple[Score, ...]
    settings: dict[str, dict[str, Row]]
    differs: tuple[Difference, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A row of the table with the value of the recipe."""

    setting: str
    """The dotted name."""
    row: Row
    ours: Any


def read_table(name: str, folder: Path = TABLES) -> Published:
    """The table of a recipe. Raises `PublishedError` if there is none or if it is not valid."""
    path = folder / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(names(folder))
        raise PublishedError(f"there is no table of published settings for {name!r}; there are {known}") from None
    except tomllib.TOMLDecodeError as error:
        raise PublishedError(f"{path.name} is not valid TOML: {error}") from None
    try:
        table = Published(**content)
    except ValidationError as error:
        raise PublishedError(first_complaint(error, path.name)) from None
    for setting, row in rows(table):
        _check(setting, row, table)
    for score in table.scores:
        _check_source(score.what, score.source, table)
    return table


def names(folder: Path = TABLES) -> list[str]:
    """Names of the recipes that have a table."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def rows(table: Published) -> Iterator[tuple[str, Row]]:
    """Dotted name and row of every setting."""
    for group, found in table.settings.items():
        for instance in group.split():
            yield from ((f"{instance}.{setting}", row) for setting, row in found.items())


def compared(table: Published, recipe: Recipe) -> list[Compared]:
    """Every row with the recipe's value. Raises `PublishedError` for a value that is neither published nor declared."""
    found = []
    for dotted, row in rows(table):
        instance, _, setting = dotted.partition(".")
        values = resolved_values(recipe.instance(instance).stage)
        if setting not in values:
            raise PublishedError(f"{table.recipe}: {dotted} is no setting of {recipe.instance(instance).stage.kind}")
        wanted = row.published if row.ours is None else row.ours
        if values[setting] != wanted:
            raise PublishedError(
                f"{table.recipe}: {dotted} is {values[setting]!r}, but its table says {wanted!r}"
                + (f" ({row.source})" if row.source else "")
                + "; change the recipe, or give ours and the reason, differs, in the table"
            )
        found.append(Compared(setting=dotted, row=row, ours=values[setting]))
    return found


def _check(setting: str, row: Row, table: Published) -> None:
    given = (row.published is not None, row.ours is not None, bool(row.differs), bool(row.unpublished))
    allowed = {
        (True, False, False, False): "published",
        (True, True, True, False): "differs",
        (False, True, False, True): "unpublished",
    }
    if given not in allowed:
        raise PublishedError(
            f"{table.recipe}: {setting} needs published and source; or also ours and differs; or ours and unpublished"
        )
    if allowed[given] != "unpublished":
        _check_source(setting, row.source, table)
    if row.published == row.ours:
        raise PublishedError(f"{table.recipe}: {setting}: ours is the published value; remove ours and differs")


def _check_source(what: str, source: str, table: Published) -> None:
    for part in source.split("; "):
        known = part.partition(":")[0].partition(",")[0]
        if known in table.sources:
            return
    raise PublishedError(
        f"{table.recipe}: {what}: source {source!r} begins with none of {', '.join(table.sources)}, "
        "a colon and the place"
    )
