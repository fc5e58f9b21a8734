"""The published settings of a system, held against those that its recipe resolves to.

Every file of tuning/published/ belongs to the recipe of the same name. A row names a dotted setting, its published
value and the source. Where the recipe differs, the row has `ours`, the recipe's value, and `differs`, the reason.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from wsss.pipeline.recipe import dotted_settings, load_recipe
from wsss.plan.dataset_stats import without_data

TUNING = Path(__file__).resolve().parents[2] / "tuning"
FILES = sorted((TUNING / "published").glob("*.toml"))
_PLAIN, _DIFFERENT = {"setting", "value", "source"}, {"setting", "value", "source", "differs", "ours"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    tables = tomllib.loads(path.read_text())
    assert set(tables) == {"row"}
    rows: list[dict[str, Any]] = tables["row"]
    return rows


@cache
def resolved(recipe: str) -> dict[str, object]:
    """Dotted name -> value of every setting of a recipe."""
    found = load_recipe(TUNING / "recipes" / f"{recipe}.toml", stand_in=without_data)
    return {name: value for one in found.instances for name, value in dotted_settings(one).items()}


ROWS = [pytest.param(path.stem, row, id=f"{path.stem}:{row['setting']}") for path in FILES for row in rows_of(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_belongs_to_a_recipe_and_names_a_setting_once(path: Path) -> None:
    assert (TUNING / "recipes" / path.name).is_file()
    names = [row["setting"] for row in rows_of(path)]
    assert names and len(set(names)) == len(names)


@pytest.mark.parametrize(("recipe", "row"), ROWS)
def test_the_recipe_has_the_published_value_or_says_why_not(recipe: str, row: dict[str, Any]) -> None:
    assert set(row) in (_PLAIN, _DIFFERENT), "`differs` and `ours` belong together"
    assert all(isinstance(row[name], str) and row[name] for name in ("setting", "source"))
    settings, name = resolved(recipe), row["setting"]
    assert name in settings, f"{recipe} has no setting {name}"
    if "differs" in row:
        assert row["differs"] and row["ours"] != row["value"], f"{name} does not differ: remove `differs` and `ours`"
        assert settings[name] == row["ours"], f"{name}: the recipe has another value than `ours`"
    else:
        assert settings[name] == row["value"], f"{name}: give `differs` and `ours`, or set the published value"
