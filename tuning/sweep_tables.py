"""Reads the tables of a sweep file and checks their dotted names and values against a recipe."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuning.dimensions import Cases, Choices, Range
from wsss.contract.fit import Fit
from wsss.contract.folds import base_name
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe, RecipeError, dotted_settings
from wsss.pipeline.recipe_files import RECIPES, SWEEPS, find_file, near_files
from wsss.pipeline.recipe_tables import unknown_name
from wsss.pipeline.wrong_values import first_complaint

TABLES = ("sweep", "fixed", "space", "cases")


def read_sweep_tables(path: Path) -> dict[str, Any]:
    """The tables of a sweep file. Raises `RecipeError` if it is not one."""
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"the sweep does not exist: {path}{_meant(path)}") from None
    except OSError as error:
        raise RecipeError(f"the sweep cannot be read: {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None
    if "stages" in tables and "sweep" not in tables:
        raise RecipeError(f"{path} is a recipe, not a sweep; wsss run {path} runs it")
    if unknown := sorted(set(tables) - set(TABLES)):
        raise RecipeError(
            f"{path}: unknown table [{unknown[0]}]; a sweep has [sweep], [fixed], [space] and [cases.NAME]"
        )
    return tables


def _meant(path: Path) -> str:
    if (recipe := find_file(path, shipped=RECIPES)).is_file():
        return f"; {path} is a recipe ({recipe}): wsss run {path}"
    return near_files(path, shipped=SWEEPS)


def by_setting(table: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Dotted names as keys, whether TOML read them as one quoted key or as nested tables."""
    found: dict[str, Any] = {}
    for instance, values in table.items():
        if "." in instance:
            found[instance] = values
        elif isinstance(values, dict):
            found |= {f"{instance}.{name}": value for name, value in values.items()}
        else:
            raise RecipeError(f"{section}.{instance}: write INSTANCE.SETTING = …, e.g. make_seeds.foreground_threshold")
    return found


def toml_value(text: str) -> Any:
    """A TOML value; text that is not valid TOML is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def build_table(cls: type[Any], table: Mapping[str, Any], where: str) -> Any:
    """A settings object; errors name the dotted setting."""
    known = [field.name for field in fields(cls)]
    for name in table:
        if name not in known:
            raise RecipeError(f"{where}.{name}: " + unknown_name("setting", name, known))
    try:
        return cls(**table)
    except ValidationError as error:
        raise RecipeError(first_complaint(error, where)) from None


def read_cases(table: Mapping[str, Any]) -> dict[str, Cases]:
    """The tables [cases.NAME]; all cases of a table give the same settings."""
    found = {}
    for name, cases in table.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not isinstance(cases, dict):
            raise RecipeError(
                f"cases.{name}: write [cases.NAME], NAME in letters and digits, with CASE = {{ … }} under it"
            )
        given = {}
        for case, values in cases.items():
            if not isinstance(values, dict):
                raise RecipeError(f"cases.{name}.{case}: write {case} = {{ INSTANCE.SETTING = … }} (got {values!r})")
            given[case] = by_setting(values, f"cases.{name}.{case}")
        found[name] = build_table(Cases, {"cases": given}, f"cases.{name}")
    return found


def instance_of(name: str, whole: Recipe, *, where: str) -> Instance:
    """The instance that has a dotted setting. Raises `RecipeError`, beginning with `where`, if there is none."""
    known: dict[str, Instance] = {}
    for one in whole.instances:
        given = base_name(one.name, one.stage)  # the trainings of all folds are set together, by their table's name
        names = [dotted.removeprefix(one.name) for dotted in dotted_settings(one) if ".inputs." not in dotted]
        known |= {f"{given}{setting}": one for setting in names if setting != ".fold"}
    if name not in known:
        raise RecipeError(f"{where}: " + unknown_name("setting", name, list(known)))
    return known[name]


def read_dimension(name: str, table: Any, whole: Recipe, *, entering: Recipe, where: str) -> Range | Choices:
    """The dimension of a setting. The setting must allow both ends of a range, and every choice.

    `entering`: the part of the recipe that must contain the searched setting; `where` names the line in errors.
    """
    instance = instance_of(name, whole, where=where)
    if isinstance(instance.stage, Fit) and name.endswith(".folds"):
        raise RecipeError(
            f"{where} changes which instances the recipe has; set it in [fixed], and compare the results of two sweeps"
        )
    if instance.name not in {one.name for one in entering.instances}:
        names = ", ".join(one.name for one in entering.instances)
        raise RecipeError(f"{where}: the metric does not depend on {instance.name}; it depends on {names}")
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: write {{ low = …, high = … }} or {{ choices = […] }} (got {table!r})")
    dimension: Range | Choices = build_table(Choices if "choices" in table else Range, table, where)
    setting = name.partition(".")[2]
    for value in dimension.ends:
        try:
            replace(instance.stage, **{setting: value})
        except ValidationError as error:
            raise RecipeError(first_complaint(error, where.removesuffix(f".{setting}"))) from None
    return dimension
