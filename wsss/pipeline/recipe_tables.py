"""A recipe's tables before validation: the TOML file, `--set`, environment variables and defaults."""

from __future__ import annotations

import difflib
import fnmatch
import os
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from wsss.pipeline.recipe_files import RECIPES, SWEEPS, find_file, near_files
from wsss.stages.registry import STAGES

TABLES = "[recipe], [runtime], [defaults] and [stages.NAME]"


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the setting, the given value and what is allowed."""


def read_tables(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"the recipe does not exist: {path}{_meant(path)}") from None
    except OSError as error:
        raise RecipeError(f"the recipe cannot be read: {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None
    if "sweep" in tables and "stages" not in tables:
        raise RecipeError(f"{path} is a sweep, not a recipe; {_of_sweep(path)}")
    origins = {}
    for section, table in tables.items():
        groups = table if section == "stages" and isinstance(table, dict) else {section: table}
        for group, values in groups.items():
            if not isinstance(values, dict):
                raise RecipeError(f"{path}: {group} is not in any table; a recipe has {TABLES}")
            origins.update({f"{group}.{name}": path.name for name in values})
            if section == "defaults":
                of_kinds = {kind: given for kind, given in values.items() if isinstance(given, dict)}
                origins.update(
                    {f"defaults.{kind}.{name}": path.name for kind, given in of_kinds.items() for name in given}
                )
    return tables, origins


def _meant(path: Path) -> str:
    """A hint for a recipe that does not exist: a sweep of this name, a kind of stage, or similar names."""
    if find_file(path, shipped=SWEEPS).is_file():
        return f"; {path} is the name of a sweep: {_of_sweep(path)}"
    kind = difflib.get_close_matches(str(path).replace("-", "_"), list(STAGES), n=1, cutoff=0.85)
    if kind:
        return f"; {kind[0]} is a kind of stage: wsss show {kind[0]} lists its settings"
    return near_files(path, shipped=RECIPES)


def _of_sweep(path: Path) -> str:
    return f"wsss sweep {path} runs it, and wsss sweep {path} --dry-run shows what it would try"


def apply_override(tables: dict[str, Any], origins: dict[str, str], override: str) -> None:
    """Apply `INSTANCE.SETTING=VALUE`; a pattern such as `train_*` stands for all instances with such names."""
    name, equals, text = override.partition("=")
    group, dot, setting = name.strip().partition(".")
    if not equals or not dot:
        raise RecipeError(f"--set {override}: write --set INSTANCE.SETTING=VALUE, e.g. --set recipe.seed=3")
    if any(sign in group for sign in "*?["):
        stages = tables.get("stages", {})
        if not (matching := fnmatch.filter(stages, group)):
            raise RecipeError(f"--set {override}: no instance has such a name; there are {', '.join(stages)}")
        for one in matching:
            apply_override(tables, origins, f"{one}.{setting}={text}")
        return
    if group in ("recipe", "runtime", "defaults"):
        target = tables.setdefault(group, {})
    elif group in tables.get("stages", {}):
        target = tables["stages"][group]
    else:
        raise RecipeError(
            "--set: " + unknown_name("instance", group, ["recipe", "runtime", "defaults", *tables.get("stages", {})])
        )
    *parents, last = setting.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise RecipeError(f"--set {override}: {group}.{parent} is not a table")
    target[last] = _parse_value(text)
    place = ".".join(setting.split(".")[:2]) if group == "defaults" else (parents or [last])[0]
    origins[f"{group}.{place}"] = "--set"


def _parse_value(text: str) -> Any:
    """A TOML value; text that is not valid TOML is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def from_environment(tables: dict[str, Any], origins: dict[str, str], *, required: bool = True) -> dict[str, Any]:
    """The tables with `$NAME` replaced from the environment; unset variables are an error if `required`, else kept."""

    def expand(value: Any, dotted: str) -> Any:
        if isinstance(value, dict):
            return {key: expand(item, f"{dotted}.{key}" if dotted else key) for key, item in value.items()}
        if isinstance(value, str) and value.startswith("$"):
            return from_variable(value, dotted.removeprefix("stages."))
        return value

    def from_variable(value: str, dotted: str) -> str:
        named = dotted.split(".")[: 3 if dotted.startswith("defaults.") else 2]
        variable, slash, rest = value[1:].partition("/")
        if variable not in os.environ:
            if not required:
                return value
            raise RecipeError(
                f"{dotted} is read from the environment variable {variable}, which is not set; "
                f"set it, or give --set {dotted}=VALUE"
            )
        origins[".".join(named)] = f"environment {variable}"
        return os.environ[variable] + slash + rest

    expanded: dict[str, Any] = expand(tables, "")
    return expanded


def with_defaults(tables: dict[str, Any], origins: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The tables of all instances, with values of `[defaults]` for settings that an instance does not set itself.

    A setting of `[defaults.KIND]` applies to the instances of that kind and has priority over one of `[defaults]`,
    which applies to all instances that have the setting. Raises `RecipeError` for a default that has no effect, unless
    it is a default of the file and `--set` changed the setting of an instance.
    """
    stages = tables.get("stages", {})
    kinds = {name: str(table.get("kind", name)) for name, table in stages.items()}
    filled = {name: dict(table) for name, table in stages.items()}
    for dotted, setting, value, names in _defaults(tables.get("defaults", {}), kinds):
        own = [origins.get(f"{name}.{setting}") for name in names if setting in stages[name]]
        if len(own) == len(names) and (origins.get(dotted) == "--set" or "--set" not in own):
            raise RecipeError(
                f"{dotted} applies to no instance: {', '.join(names)} set {setting} themselves; change it there"
            )
        for name in names:
            if setting not in filled[name]:
                filled[name][setting] = value
                origins[f"{name}.{setting}"] = origins.get(dotted, "defaults")
    return filled


def _defaults(table: dict[str, Any], kinds: dict[str, str]) -> Iterator[tuple[str, str, Any, list[str]]]:
    """Dotted name, setting, value, and the instances it applies to; defaults of a kind first."""
    of_kinds = {key: given for key, given in table.items() if isinstance(given, dict) and key in STAGES}
    for kind, given in of_kinds.items():
        names = [name for name, its_kind in kinds.items() if its_kind == kind]
        if not names:
            raise RecipeError(f"[defaults.{kind}]: no instance of this recipe is of that kind")
        for setting, value in given.items():
            if setting in ("kind", "inputs"):
                raise RecipeError(f"defaults.{kind}.{setting} belongs to a single instance; write it in [stages.NAME]")
            yield f"defaults.{kind}.{setting}", setting, value, names
    have = {name: {field.name for field in fields(STAGES[kind])} for name, kind in kinds.items() if kind in STAGES}
    for setting, value in table.items():
        if setting in of_kinds:
            continue
        names = [name for name, settings in have.items() if setting in settings]
        if setting in STAGES or setting in ("kind", "inputs"):
            raise RecipeError(f"defaults.{setting} is not a setting; write defaults.KIND.SETTING, or defaults.SETTING")
        if not names:
            settings, ordered = sorted(set().union(*have.values())), list(dict.fromkeys(kinds.values()))
            near = difflib.get_close_matches(setting, [*settings, *ordered], n=3)
            known = near or [f"the settings of {', '.join(ordered)}"]
            raise RecipeError(f"defaults.{setting}: " + unknown_setting(setting, known, what="setting or kind"))
        yield f"defaults.{setting}", setting, value, names


RENAMED = {
    "num_ranks": "world_size",
    "accumulation_steps": "gradient_accumulation_steps",
    "head_rate_factor": "head_lr_multiplier",
    "bias_rate_factor": "bias_lr_multiplier",
    "apart": "second_classifier",
}
"""Old names of settings and inputs -> their current names."""
MOVED = {
    "unchecked": "the stages that read labels: train_classifier, make_cams, make_segmenter_maps and predict; "
    "defaults.unchecked sets it for all of them",
}
"""Settings of one stage that are now settings of others."""


def unknown_setting(name: str, known: list[str], *, what: str = "setting") -> str:
    """A message for an unknown setting or input: its new name if it was renamed, else similar names."""
    if name in RENAMED:
        return f"this {what} is now called {RENAMED[name]}"
    if name in MOVED:
        return f"this {what} now belongs to {MOVED[name]}"
    return unknown_name(what, name, known)


def unknown_name(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"


def mistaken_inputs(instance: str, unread: list[str], origins: dict[str, str]) -> list[str]:
    """Of the inputs that nothing reads, those that are mistakes of the recipe's file or of `--set`.

    The file may name an input that `--set`, or a sweep's trial, switches off with another setting of the instance. It
    gets an origin of its own, by which `wsss run` reports it.
    """
    own = f"{instance}.inputs"
    changed = any(
        name.startswith(f"{instance}.") and name != own for name, place in origins.items() if place == "--set"
    )
    if not changed or origins.get(own) == "--set":
        return unread
    origins.update({f"{own}.{slot}": origins.get(own, "default") for slot in unread})
    return []
