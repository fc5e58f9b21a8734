"""Sweep files: a base recipe, a metric, and a search space of dotted settings.

[sweep]       name, recipe, metric, split, method, ...: see `tuning.sweep_settings`
[fixed]       dotted setting = value, the same in every trial (for example to omit splits that the metric does not read)
[space]       dotted setting = { low, high, step, log } or { choices }
[cases.NAME]  case = { dotted setting = value, ... }: settings that change together; every case gives all of them
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from shards.records import SeedRecord
from tuning.counted_threshold import THRESHOLD, check_bins, labels_of
from tuning.dimensions import Cases, Dimension, Range
from tuning.read_settings import check_read, check_stop_by
from tuning.sweep_settings import SweepSettings
from tuning.sweep_tables import (
    build_table,
    by_setting,
    instance_of,
    read_cases,
    read_dimension,
    read_sweep_tables,
    toml_value,
)
from wsss.contract.folds import base_name
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe, RecipeError, load_recipe
from wsss.pipeline.recipe_files import RECIPES, find_file
from wsss.pipeline.recipe_tables import unknown_name
from wsss.stages.evaluate import Evaluate


@dataclass(frozen=True)
class SearchSpace:
    """Dotted setting, or name of cases -> its dimension."""

    dimensions: Mapping[str, Dimension]

    @property
    def settings(self) -> tuple[str, ...]:
        """The dotted settings that differ between trials, including those of cases."""
        of = [one.settings if isinstance(one, Cases) else (name,) for name, one in self.dimensions.items()]
        return tuple(setting for names in of for setting in names)

    @property
    def num_combinations(self) -> int:
        """Trials of a grid. Raises ValueError for a range that has no steps."""
        return math.prod(len(one.all_values) for one in self.dimensions.values())

    def combinations(self) -> list[dict[str, Any]]:
        """Every combination as a suggestion, the last dimension changing fastest. Raises ValueError as above."""
        texts = [
            one.all_values if isinstance(one, Range) else [json.dumps(value) for value in one.all_values]
            for one in self.dimensions.values()
        ]
        return [dict(zip(self.dimensions, values, strict=True)) for values in itertools.product(*texts)]

    def values(self, suggestion: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a suggestion, in which choices are JSON; for cases, the name of the case."""
        return {
            name: one.tidy(suggestion[name]) if isinstance(one, Range) else json.loads(suggestion[name])
            for name, one in self.dimensions.items()
        }

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted setting -> value, including the settings of the named cases."""
        found: dict[str, Any] = {}
        for name, one in self.dimensions.items():
            found |= one.cases[values[name]] if isinstance(one, Cases) else {name: values[name]}
        return found

    def apply(self, values: Mapping[str, Any]) -> list[str]:
        """The `--set` overrides of one trial."""
        # JSON of numbers, strings, truth values and lists is TOML, which is what `--set` reads.
        return [f"{name}={json.dumps(value)}" for name, value in self.given(values).items()]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file, checked against its recipe."""

    settings: SweepSettings
    space: SearchSpace
    recipe_path: Path
    overrides: tuple[str, ...]
    """Overrides of all trials: `[fixed]`, then those of the command line."""
    base: Recipe
    """The part of the recipe that the metric needs, with these overrides."""
    labels: str = ""
    """The make_pseudo_labels instance whose threshold is applied to the metric's counts; none if empty."""

    @property
    def folder(self) -> Path:
        """Where the sweep writes its results."""
        return self.base.runtime.runs.absolute() / self.settings.name

    def trial_overrides(self, values: Mapping[str, Any]) -> list[str]:
        """All overrides of one trial; the folder of runs is the driver's, on whichever machine the trial runs."""
        runs = json.dumps(str(self.base.runtime.runs.absolute()))
        return [*self.overrides, f"runtime.runs={runs}", *self.space.apply(values)]

    @cached_property
    def environment(self) -> dict[str, str]:
        """The environment variables that the recipe reads."""
        read = [origin.split(" ")[1] for origin in self.base.origins.values() if origin.startswith("environment ")]
        return {name: os.environ[name] for name in read}

    def trial_recipe(self, overrides: Iterable[str]) -> Recipe:
        """The part of the recipe that the metric needs. Raises `RecipeError` for settings that do not fit together."""
        return needed(_recipe_of(self.recipe_path, tuple(overrides)), self.settings.metric, self.settings.to)

    def trial_fingerprint(self, overrides: Iterable[str]) -> str:
        """Identifies a trial, including the settings of the labels that it measures without making them."""
        recipe = _recipe_of(self.recipe_path, tuple(overrides))
        return needed(recipe, self.settings.metric, self.settings.to, self.labels).fingerprint

    def threshold(self, values: Mapping[str, Any]) -> float | None:
        """The background threshold that a trial applies to counts, or None if it measures label maps."""
        return float(self.space.given(values)[f"{self.labels}.{THRESHOLD}"]) if self.labels else None

    @property
    def num_trials(self) -> int:
        """The number of trials."""
        return self.space.num_combinations if self.settings.method == "grid" else self.settings.num_trials

    @property
    def num_random(self) -> int:
        """search: how many of its trials are drawn at random, before it uses results."""
        return (self.num_trials + 1) // 2

    @cached_property
    def changed(self) -> frozenset[str]:
        """The instances whose fingerprints depend on the trial."""
        return self._reached(self.space.settings)

    def changed_by(self, name: str) -> frozenset[str]:
        """The instances whose fingerprints depend on one line of [space] or [cases]."""
        one = self.space.dimensions[name]
        return self._reached(one.settings if isinstance(one, Cases) else (name,))

    def _reached(self, settings: Iterable[str]) -> frozenset[str]:
        """The instances that have one of these settings, and those that read them."""
        names = {name.partition(".")[0] for name in settings}
        for instance in self.base.instances:
            given = base_name(instance.name, instance.stage)  # a setting of all folds is that of the recipe's table
            if given in names or any(up.name in names for up in instance.inputs.values()):
                names.add(instance.name)
        return frozenset(names)

    def unchanged(self) -> Recipe:
        """The instances that all trials share; they run once, before the trials."""
        kept = tuple(instance for instance in self.base.instances if instance.name not in self.changed)
        return replace(self.base, instances=kept)


@lru_cache(maxsize=8)
def _recipe_of(path: Path, overrides: tuple[str, ...]) -> Recipe:
    """The recipe of a trial: its result, its record and its fingerprint need it one after the other."""
    return load_recipe(path, overrides)


def needed(recipe: Recipe, *targets: str) -> Recipe:
    """The recipe without the instances that no target reads, directly or through others; empty targets are ignored."""
    names = {recipe.instance(target).name for target in targets if target}
    for instance in reversed(recipe.instances):
        if instance.name in names:
            names |= {up.name for up in instance.inputs.values()}
    return replace(recipe, instances=tuple(instance for instance in recipe.instances if instance.name in names))


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> Sweep:
    """Read a sweep file; overrides that begin with `sweep.` change its own table, the others change the recipe.

    Raises `RecipeError` if a setting cannot be searched, naming the dotted setting.
    """
    tables = read_sweep_tables(path)
    given = list(overrides)
    sweep_table = dict(tables.get("sweep", {}))
    for override in (one for one in given if one.startswith("sweep.")):
        name, _, value = override.removeprefix("sweep.").partition("=")
        sweep_table[name.strip()] = toml_value(value)
    chosen = build_table(SweepSettings, sweep_table, "sweep")
    fixed = [f"{name}={json.dumps(value)}" for name, value in by_setting(tables.get("fixed", {}), "fixed").items()]
    shared = [*fixed, *(one for one in given if not one.startswith("sweep."))]
    recipe_path = (path.parent / chosen.recipe).resolve()
    if not recipe_path.exists() and (shipped := find_file(chosen.recipe, shipped=RECIPES)).exists():
        recipe_path = shipped.resolve()
    whole = load_recipe(recipe_path, shared)
    for setting, name in (("metric", chosen.metric), ("to", chosen.to)):
        if name and name not in (known := [one.name for one in whole.instances]):
            raise RecipeError(f"sweep.{setting}: {unknown_name('instance', name, known)}")
    base = needed(whole, chosen.metric, chosen.to)
    _check_metric(base.instance(chosen.metric), chosen, whole)
    space, labels = _space(tables, whole, base, chosen)
    if not space.dimensions:
        raise RecipeError(
            f"{path}: [space] names no setting to search; write e.g. "
            "make_seeds.foreground_threshold = { low = 0.2, high = 0.5 }"
        )
    _check_searched_once(space, shared)
    check_read(space.dimensions, whole)
    _check_method(space, chosen, sweep_table)
    sweep = Sweep(
        settings=chosen,
        space=space,
        recipe_path=recipe_path,
        overrides=tuple(shared),
        base=base,
        labels=labels,
    )
    check_stop_by(chosen.stop_by, base, changed=sweep.changed)
    return sweep


def _space(tables: Mapping[str, Any], whole: Recipe, base: Recipe, chosen: SweepSettings) -> tuple[SearchSpace, str]:
    """The dimensions in [space] and [cases], and the instance whose threshold is applied to counts."""
    lines, cases = by_setting(tables.get("space", {}), "space"), read_cases(tables.get("cases", {}))
    searched = [*lines, *(setting for one in cases.values() for setting in one.settings)]
    of_cases = {setting: f"cases.{name}: {setting}" for name, one in cases.items() for setting in one.settings}
    for setting in searched:
        instance_of(setting, whole, where=of_cases.get(setting, f"space.{setting}"))
    labels = labels_of(base.instance(chosen.metric), whole, searched)
    counted = f"{labels}.{THRESHOLD}" if labels else ""
    dimensions: dict[str, Dimension] = {}
    for name, table in lines.items():
        found = read_dimension(name, table, whole, entering=whole if name == counted else base, where=f"space.{name}")
        if name == counted:
            check_bins(name, found)
        dimensions[name] = found
    for name, one in cases.items():
        for setting in one.settings:
            values = {json.dumps(of_case[setting]): of_case[setting] for of_case in one.cases.values()}
            entering, where = whole if setting == counted else base, f"cases.{name}: {setting}"
            found = read_dimension(setting, {"choices": list(values.values())}, whole, entering=entering, where=where)
            if setting == counted:
                check_bins(setting, found)
        dimensions[name] = one
    return SearchSpace(dimensions), labels


def _check_searched_once(space: SearchSpace, shared: Iterable[str]) -> None:
    """Raise `RecipeError` if a setting is searched twice, or both searched and given."""
    given, seen = {override.partition("=")[0].strip() for override in shared}, set[str]()
    for name in space.settings:
        table = "space" if name in space.dimensions else "cases"
        if name in given:
            raise RecipeError(f"{table}.{name}: it is also given by [fixed] or --set; remove it from one of them")
        if name in seen:
            raise RecipeError(f"{table}.{name}: [space] and [cases] search it twice; remove it from one of them")
        seen.add(name)


def _check_method(space: SearchSpace, chosen: SweepSettings, table: Mapping[str, Any]) -> None:
    """Raise `RecipeError` for settings of a search in a grid, and for a range without a finite number of values."""
    if chosen.method != "grid":
        return
    for name in ("num_trials", "seed"):
        if name in table:
            raise RecipeError(
                f"sweep.{name} = {table[name]} is for method = 'search'; a grid tries every combination once, in "
                f"order; remove {name}, or shorten [space]"
            )
    for name, one in space.dimensions.items():
        try:
            _ = one.all_values
        except ValueError as error:
            raise RecipeError(f"space.{name}: {error}") from None


def _check_metric(instance: Instance, chosen: SweepSettings, recipe: Recipe) -> None:
    good = [one.name for one in recipe.instances if _has_mean_iou(one)]
    if not _has_mean_iou(instance):
        raise RecipeError(
            f"sweep.metric = {instance.name!r} is not an evaluate instance of label maps or score maps; "
            f"there are {', '.join(good) or 'none'}"
        )
    assert isinstance(instance.stage, Evaluate)
    if chosen.split not in instance.stage.splits:
        raise RecipeError(
            f"sweep.split = {chosen.split!r}, but {instance.name}.splits measures {', '.join(instance.stage.splits)}"
        )
    if chosen.name == recipe.settings.name:
        raise RecipeError(f"sweep.name = {chosen.name!r} is also the recipe's name; give the sweep another name")


def _has_mean_iou(instance: Instance) -> bool:
    return isinstance(instance.stage, Evaluate) and instance.inputs["records"].layer.kind != SeedRecord.kind
