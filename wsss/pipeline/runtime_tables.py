"""The tables `[runtime.KIND]` and `[runtime.INSTANCE]`: which stages they belong to, and what these can use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from wsss.contract.fit import Fit
from wsss.contract.resources import StageResources, can_use_gpus
from wsss.contract.runtime import RuntimeSettings
from wsss.pipeline.recipe_tables import RecipeError, unknown_name, unknown_setting
from wsss.stages.registry import STAGES

_OF_STAGES = "stages"
Table = Mapping[str, Any]


def split_runtime(table: Table, kinds: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings of `[runtime]` itself, and the tables of single stages. `kinds`: instance -> its kind.

    Raises `RecipeError` for a table that belongs to no stage of the recipe, or a setting that it does not have.
    """
    known = {field.name for field in fields(RuntimeSettings)} - {_OF_STAGES}
    own = {name: value for name, value in table.items() if name in known or not isinstance(value, dict)}
    if _OF_STAGES in table:
        raise RecipeError(f"runtime.{_OF_STAGES} is no setting; write tables [runtime.KIND], or runtime.KIND.SETTING")
    of_stages = {name: dict(value) for name, value in table.items() if name not in own}
    for name, values in of_stages.items():
        _check_table(name, values, kinds)
    return own, of_stages


def _check_table(name: str, values: Table, kinds: Mapping[str, str]) -> None:
    if name not in kinds and name not in kinds.values():
        if name in STAGES:
            raise RecipeError(f"[runtime.{name}]: no instance of this recipe is of that kind; remove it")
        raise RecipeError(
            f"[runtime.{name}]: "
            + unknown_name("kind or instance", name, list(dict.fromkeys([*kinds, *kinds.values()])))
        )
    trains = issubclass(STAGES.get(kinds.get(name, name), Fit), Fit)
    allowed, others = StageResources.of_ranks, StageResources.of_actors
    does = "trains, with one rank per process of world_size"
    if not trains:
        allowed, others, does = others, allowed, "processes shards, with actors"
    for setting in values:
        if setting in others:
            raise RecipeError(f"runtime.{name}.{setting}: {name} {does}; it has {', '.join(allowed)}")
        if setting not in allowed:
            raise RecipeError(f"runtime.{name}.{setting}: " + unknown_setting(setting, list(allowed)))


def check_resources(given: Mapping[str, StageResources], kinds: Mapping[str, str]) -> None:
    """Raise `RecipeError` if a stage that computes without GPUs is given one: it would be idle, and paid for."""
    for name, one in given.items():
        stage = STAGES.get(kinds.get(name, name))
        if one.actor_gpus and stage is not None and not can_use_gpus(stage):
            raise RecipeError(
                f"runtime.{name}.actor_gpus = {one.actor_gpus:g}: {name} computes without GPUs, which would be idle; "
                "remove it"
            )
