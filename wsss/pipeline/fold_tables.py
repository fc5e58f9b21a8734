"""Cross-fitting in a recipe: the table of a training with `folds` becomes one table per fold, and the slots of its
readers are filled with the networks of all folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from wsss.contract.fit import Fit
from wsss.contract.folds import (
    base_name,
    check_class_folds,
    check_num_shards,
    name_of_fold,
    slots_of_folds,
    view_of_fold,
)
from wsss.contract.stage import Instance, Map, Stage
from wsss.pipeline.recipe_tables import RecipeError
from wsss.stages.registry import STAGES

_MOST = 64
"""As `Fit.folds` allows; another value is refused where settings are validated."""


def per_fold(stages: Mapping[str, dict[str, Any]], origins: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The tables of all instances, with one table for every fold of the trainings that have `folds`."""
    found: dict[str, dict[str, Any]] = {}
    for name, table in stages.items():
        kind = str(table.get("kind", name))
        folds = table.get("folds", 1)
        trains = issubclass(STAGES.get(kind, Stage), Fit)
        if not trains or "fold" in table or type(folds) is not int or not 1 < folds <= _MOST:
            found[name] = table
            continue
        for fold in range(1, folds + 1):
            of_fold = name_of_fold(name, fold)
            if of_fold in stages:
                raise RecipeError(
                    f"{name}.folds = {folds} makes an instance {of_fold}, but the recipe has [stages.{of_fold}]; "
                    "rename one of them"
                )
            found[of_fold] = table | {"kind": kind, "fold": fold}
            for field in ("inputs", *(field.name for field in fields(STAGES[kind]))):
                if origin := origins.get(f"{name}.{field}"):
                    origins[f"{of_fold}.{field}"] = origin
            origins[f"{of_fold}.fold"] = f"{name}.folds"
    return found


def check_fold(name: str, stage: Stage) -> None:
    """Raise `RecipeError` if a recipe sets `fold` otherwise than `folds` would."""
    if not isinstance(stage, Fit) or (stage.folds == 1 and not stage.fold):
        return
    if not 1 <= stage.fold <= stage.folds or not name.endswith(name_of_fold("", stage.fold)):
        raise RecipeError(
            f"{name}.fold = {stage.fold} is not for recipes: folds = N makes the instances of all folds; remove fold"
        )


def filled_slots(
    name: str, stage: Stage, slot: str, upstream: Instance, earlier: Sequence[Instance], *, named: str | None
) -> dict[str, Instance]:
    """The slots that an input fills: several for the networks of a cross-fitting that a `Map` stage reads.

    `named`: what the recipe names as the input. A training on all images may start from one fold's network if the
    recipe names that one. Raises `RecipeError` for a training that starts from a network of other folds.
    """
    if isinstance(stage, Fit):
        if stage.folds == 1 and named == upstream.name:
            return {slot: upstream}
        return {slot: _of_training(name, stage, slot, upstream, earlier)}
    if not isinstance(stage, Map) or not isinstance(upstream.stage, Fit) or upstream.stage.folds == 1:
        return {slot: upstream}
    return slots_of_folds(slot, _siblings(upstream, earlier))


def _siblings(network: Instance, earlier: Sequence[Instance]) -> list[Instance]:
    """The networks of all folds of one cross-fitting, in order."""
    assert isinstance(network.stage, Fit)
    base, by_name = base_name(network.name, network.stage), {one.name: one for one in earlier}
    names = [name_of_fold(base, fold) for fold in range(1, network.stage.folds + 1)]
    if absent := [name for name in names if name not in by_name]:
        raise RecipeError(f"{base}.folds = {network.stage.folds}, but there is no instance {absent[0]}")
    return [by_name[name] for name in names]


def _of_training(name: str, stage: Fit, slot: str, upstream: Instance, earlier: Sequence[Instance]) -> Instance:
    if not isinstance(upstream.stage, Fit):
        return view_of_fold(upstream, stage)
    base, own = base_name(upstream.name, upstream.stage), base_name(name, stage)
    if upstream.stage.folds == stage.folds:
        return upstream if stage.folds == 1 else _siblings(upstream, earlier)[stage.fold - 1]
    if stage.folds == 1:
        raise RecipeError(
            f"{own}.inputs.{slot} is {base}, a cross-fitting of {upstream.stage.folds} networks, but {own} trains one "
            f"on all images; set {own}.folds = {upstream.stage.folds}, or name one of them in {own}.inputs: {slot} = "
            f"{name_of_fold(base, 1)!r}"
        )
    raise RecipeError(
        f"{own}.folds = {stage.folds} starts from {base}, which is trained with folds = {upstream.stage.folds}: its "
        f"networks have learned images that {own} must not have learned; set {base}.folds = {stage.folds}"
    )


def check_counted_shards(instances: Iterable[Instance]) -> None:
    """Raise `RecipeError` if a training has more folds than shards, or if a fold has all images of a class: both are
    known for certain once the samples are done. The trainings of all folds together are checked once."""
    for instance in {base_name(one.name, one.stage): one for one in instances}.values():
        try:
            check_num_shards(instance)
            check_class_folds(instance)
        except ValueError as error:
            raise RecipeError(str(error)) from None
