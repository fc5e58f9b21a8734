"""The best setting of a sweep as a recipe of its own, which `wsss run` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuning.search_space import Sweep
from tuning.toml_text import toml_lines
from wsss.pipeline.recipe_tables import apply_override, read_tables

NARROWED = ("splits", "max_shards")
"""Settings that [fixed] gives to save time while a sweep measures; a whole run needs the recipe's own."""


def best_recipe(sweep: Sweep, overrides: Sequence[str], *, notes: Sequence[str] = ()) -> str:
    """The sweep's recipe with what [fixed] and the command line gave and with `overrides`, the best setting.

    Left out are the settings of `runtime`, which belong to a machine, and those that only restrict what is measured.
    `notes`: lines for the head of the file.
    """
    tables, origins = read_tables(sweep.recipe_path)
    kept = [one for one in sweep.overrides if not _is_left_out(one)]
    for override in (*kept, *overrides):
        apply_override(tables, origins, override)
    tables["recipe"]["name"] = f"{sweep.base.settings.name}_{sweep.settings.name}"
    left_out = [one for one in sweep.overrides if one not in kept and not one.startswith("runtime.")]
    taken = [one for one in kept if not one.startswith(("recipe.", "defaults."))]
    lines = [f"# {note}" for note in notes]
    if taken:
        lines.append(f"# From the sweep's [fixed] and its command, not searched: {', '.join(taken)}")
    if left_out:
        lines.append(f"# Not taken over from the sweep, where it saved time: {', '.join(left_out)}")
    for section in ("recipe", "runtime", "defaults"):
        lines += _section(section, tables.get(section, {}))
    for name, table in tables["stages"].items():
        lines += _section(f"stages.{name}", table, always=True)
    return "\n".join(lines) + "\n"


def _is_left_out(override: str) -> bool:
    name = override.partition("=")[0].strip()
    return name.startswith("runtime.") or name.rpartition(".")[2] in NARROWED


def _section(name: str, table: Mapping[str, Any], *, always: bool = False) -> list[str]:
    if not table and not always:
        return []
    plain = json.loads(json.dumps(table))  # a recipe holds JSON types only
    return ["", f"[{name}]", *toml_lines(plain)]
