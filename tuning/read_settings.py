"""Refuses a sweep over a setting that nothing reads, whose trials would all give the same result, and one that compares
trials by a training that cannot tell them apart."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from pydantic import ValidationError

from tuning.dimensions import Cases, Dimension
from wsss.contract.fit import Fit
from wsss.contract.folds import base_name
from wsss.contract.settings import hashed_values, inactive_settings
from wsss.contract.stage import Stage
from wsss.pipeline.recipe import Recipe, RecipeError

MOST_VARIANTS = 256
"""Combinations of an instance's searched values that are looked at."""


def check_read(dimensions: Mapping[str, Dimension], recipe: Recipe) -> None:
    """Raise `RecipeError` for a searched setting that no combination of the searched values makes an instance read."""
    values: dict[str, list[object]] = {}
    where: dict[str, str] = {}
    for name, one in dimensions.items():
        if isinstance(one, Cases):
            for setting in one.settings:
                values[setting] = [case[setting] for case in one.cases.values()]
                where[setting] = f"cases.{name}: {setting}"
        else:
            values[name], where[name] = list(one.ends), f"space.{name}"
    for name in values:
        owner, _, setting = name.partition(".")
        own = {key.partition(".")[2]: found for key, found in values.items() if key.partition(".")[0] == owner}
        # Settings of the trainings of all folds are searched together, by the name of their table.
        stage = next(one.stage for one in recipe.instances if base_name(one.name, one.stage) == owner)
        if not any(setting in hashed_values(variant) for variant in _variants(stage, own)):
            raise RecipeError(f"{where[name]}: {_why(stage, owner, setting)}")


def _variants(stage: Stage, values: Mapping[str, list[object]]) -> Iterator[Stage]:
    """The stage with every combination of the values that it allows."""
    combinations = itertools.product(*values.values())
    for combination in itertools.islice(combinations, MOST_VARIANTS):
        try:
            yield replace(stage, **dict(zip(values, combination, strict=True)))
        except ValidationError:
            continue  # that trial will be pruned


def _why(stage: Stage, owner: str, setting: str) -> str:
    allowed = ", ".join(f"{owner}.{name}" for name in hashed_values(stage))
    if (condition := inactive_settings(stage).get(setting)) is not None:
        return (
            f"nothing reads it: it is read only with {condition}; set that under [fixed], remove the line, or search "
            f"one of {allowed}"
        )
    return f"no result depends on it: it changes speed or places only; remove the line, or search one of {allowed}"


def check_stop_by(name: str, base: Recipe, *, changed: Collection[str]) -> None:
    """Raise `RecipeError` if `sweep.stop_by` is no training whose validation can tell trials apart.

    `changed`: the instances that depend on the searched settings.
    """
    if not name:
        return
    trainings = [one.name for one in base.instances if isinstance(one.stage, Fit) and one.name in changed]
    if name not in trainings:
        raise RecipeError(
            f"sweep.stop_by = {name!r} is no training that depends on the searched settings; there are "
            f"{', '.join(trainings) or 'none'}"
        )
    stage = base.instance(name).stage
    assert isinstance(stage, Fit)
    if type(stage).validate is Fit.validate:
        raise RecipeError(f"sweep.stop_by = {name!r} has no validation; name a classifier or a segmenter")
    if not stage.validate_every:
        raise RecipeError(
            f"sweep.stop_by = {name!r} needs validations while it trains; set {name}.validate_every = 1 under [fixed]"
        )
