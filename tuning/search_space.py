"""Sweep files: a base recipe, what to measure, and a space over dotted settings.

[sweep]     name, recipe, metric, split, num_trials, max_concurrent, seed, to
[fixed]     dotted setting = value, the same in every trial (to leave out splits that the metric does not read)
[space]     dotted setting = { low, high, step, log } or { choices }
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from shards.records import SeedRecord
from tuning.counted_threshold import THRESHOLD, check_bins, labels_of
from tuning.dimensions import Choices, Range
from wsss.recipe import Recipe, RecipeError, dotted_settings, load_recipe
from wsss.settings import settings
from wsss.stages.evaluate import Evaluate
from wsss.stages.stage import Instance


@settings
class SweepSettings:
    """The table `[sweep]`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    """Names the run in MLflow and the folder of results."""
    recipe: Path
    """The recipe that the trials vary, relative to the sweep file."""
    metric: str
    """The `evaluate` instance whose mean IoU is searched for. One of label maps; or one of score maps, where the space
    names the `background_threshold` that cuts them: then no trial makes labels, and it costs milliseconds."""
    split: str = "val"
    """Split that the mean IoU is taken from."""
    num_trials: Annotated[int, Field(ge=1)] = 12
    """How many settings are tried."""
    max_concurrent: Annotated[int, Field(ge=1)] = 1
    """Trials at work at the same time; with more than 1 the search depends on which of them ends first."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the search; the recipe keeps its own."""
    to: str = ""
    """A further instance that every trial runs, with all it reads; none where empty."""


@dataclass(frozen=True)
class SearchSpace:
    """Dotted setting -> what it may be."""

    dimensions: Mapping[str, Range | Choices]

    def values(self, suggestion: Mapping[str, Any]) -> dict[str, Any]:
        """A suggestion of the search, in which a choice stands as JSON, as values of the settings."""
        return {
            name: one.tidy(suggestion[name]) if isinstance(one, Range) else json.loads(suggestion[name])
            for name, one in self.dimensions.items()
        }

    def apply(self, values: Mapping[str, Any]) -> list[str]:
        """The `--set` overrides of one trial."""
        # JSON of numbers, strings, truth values and lists is TOML, which is what `--set` reads.
        return [f"{name}={json.dumps(values[name])}" for name in self.dimensions]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file, checked against its recipe."""

    settings: SweepSettings
    space: SearchSpace
    recipe_path: Path
    overrides: tuple[str, ...]
    """What holds for all trials: `[fixed]`, then the command line."""
    base: Recipe
    """The part of the recipe that the metric needs, with these overrides."""
    labels: str = ""
    """The make_pseudo_labels instance whose threshold trials read off the metric's counts; none where empty."""

    @property
    def folder(self) -> Path:
        """Where the sweep writes its results."""
        return self.base.runtime.runs.absolute() / self.settings.name

    def trial_overrides(self, values: Mapping[str, Any]) -> list[str]:
        """All overrides of one trial; the folder of runs is the driver's, wherever the trial is."""
        runs = json.dumps(str(self.base.runtime.runs.absolute()))
        return [*self.overrides, f"runtime.runs={runs}", *self.space.apply(values)]

    @cached_property
    def environment(self) -> dict[str, str]:
        """The environment variables that the recipe reads."""
        read = [origin.split(" ")[1] for origin in self.base.origins.values() if origin.startswith("environment ")]
        return {name: os.environ[name] for name in read}

    def trial_recipe(self, overrides: Iterable[str]) -> Recipe:
        """The part of the recipe that the metric needs. Raises `RecipeError` for settings that do not fit together."""
        return needed(load_recipe(self.recipe_path, overrides), self.settings.metric, self.settings.to)

    def trial_fingerprint(self, overrides: Iterable[str]) -> str:
        """Identifies a trial: also by the labels that it stands for and does not make."""
        recipe = load_recipe(self.recipe_path, overrides)
        return needed(recipe, self.settings.metric, self.settings.to, self.labels).fingerprint

    def threshold(self, values: Mapping[str, Any]) -> float | None:
        """The background threshold that a trial reads off counts, or None where it measures label maps."""
        return float(values[f"{self.labels}.{THRESHOLD}"]) if self.labels else None

    @cached_property
    def changed(self) -> frozenset[str]:
        """The instances whose fingerprints depend on the trial."""
        names = {name.partition(".")[0] for name in self.space.dimensions}
        for instance in self.base.instances:
            if any(up.name in names for up in instance.inputs.values()):
                names.add(instance.name)
        return frozenset(names)

    def unchanged(self) -> Recipe:
        """What all trials share, to be run once before them."""
        kept = tuple(instance for instance in self.base.instances if instance.name not in self.changed)
        return replace(self.base, instances=kept)


def needed(recipe: Recipe, *targets: str) -> Recipe:
    """The recipe without the instances that no target reads, directly or through others; empty targets count not."""
    names = {recipe.instance(target).name for target in targets if target}
    for instance in reversed(recipe.instances):
        if instance.name in names:
            names |= {up.name for up in instance.inputs.values()}
    return replace(recipe, instances=tuple(instance for instance in recipe.instances if instance.name in names))


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> Sweep:
    """Read a sweep file; overrides that begin with `sweep.` change its own table, others the recipe.

    Raises `RecipeError` for anything that cannot be searched, naming the dotted setting.
    """
    tables = _read(path)
    given = list(overrides)
    sweep_table = dict(tables.get("sweep", {}))
    for override in (one for one in given if one.startswith("sweep.")):
        name, _, value = override.removeprefix("sweep.").partition("=")
        sweep_table[name.strip()] = _toml_value(value)
    chosen = _build(SweepSettings, sweep_table, "sweep")
    fixed = [f"{name}={json.dumps(value)}" for name, value in _by_setting(tables.get("fixed", {}), "fixed").items()]
    shared = [*fixed, *(one for one in given if not one.startswith("sweep."))]
    recipe_path = (path.parent / chosen.recipe).resolve()
    whole = load_recipe(recipe_path, shared)
    base = needed(whole, chosen.metric, chosen.to)
    _check_metric(base.instance(chosen.metric), chosen, whole)
    space = _by_setting(tables.get("space", {}), "space")
    labels = labels_of(base.instance(chosen.metric), whole, space)
    dimensions = {}
    for name, table in space.items():
        if name in {override.partition("=")[0].strip() for override in shared}:
            raise RecipeError(f"space.{name}: it is also given by [fixed] or --set; it is either searched or given")
        counted = labels != "" and name == f"{labels}.{THRESHOLD}"
        dimensions[name] = _dimension(name, table, whole, entering=whole if counted else base)
        if counted:
            check_bins(name, dimensions[name])
    if not dimensions:
        raise RecipeError(
            f"{path}: [space] names no setting to search; write e.g. "
            "make_seeds.foreground_threshold = { low = 0.2, high = 0.5 }"
        )
    return Sweep(
        settings=chosen,
        space=SearchSpace(dimensions),
        recipe_path=recipe_path,
        overrides=tuple(shared),
        base=base,
        labels=labels,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"the sweep does not exist: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None
    if unknown := sorted(set(tables) - {"sweep", "fixed", "space"}):
        raise RecipeError(f"{path}: unknown table [{unknown[0]}]; a sweep has [sweep], [fixed] and [space]")
    return tables


def _by_setting(table: Mapping[str, Any], section: str) -> dict[str, Any]:
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


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(cls: type[Any], table: Mapping[str, Any], where: str) -> Any:
    """A settings object; complaints in terms of dotted names."""
    known = [field.name for field in fields(cls)]
    for name in table:
        if name not in known:
            raise RecipeError(f"{where}.{name}: " + _unknown("setting", name, known))
    try:
        return cls(**table)
    except ValidationError as error:
        raise RecipeError(_complaint(error, where)) from None


def _complaint(error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"] if str(part).isidentifier() and str(part) not in ("int", "float")]
    shown = isinstance(first["input"], str | int | float) and first["type"] != "missing"
    came = f" (got {first['input']!r})" if shown else ""
    return f"{'.'.join([where, *names])}: {first['msg'].removeprefix('Value error, ')}{came}"


def _check_metric(instance: Instance, chosen: SweepSettings, recipe: Recipe) -> None:
    good = [one.name for one in recipe.instances if _has_mean_iou(one)]
    if not _has_mean_iou(instance):
        raise RecipeError(
            f"sweep.metric = {instance.name!r} is no evaluate instance of label maps or score maps; "
            f"there are {', '.join(good) or 'none'}"
        )
    assert isinstance(instance.stage, Evaluate)
    if chosen.split not in instance.stage.splits:
        raise RecipeError(
            f"sweep.split = {chosen.split!r}, but {instance.name}.splits measures {', '.join(instance.stage.splits)}"
        )
    if chosen.name == recipe.settings.name:
        raise RecipeError(f"sweep.name = {chosen.name!r} is the recipe's own name; give the sweep another one")


def _has_mean_iou(instance: Instance) -> bool:
    return isinstance(instance.stage, Evaluate) and instance.inputs["records"].layer.kind != SeedRecord.kind


def _dimension(name: str, table: Any, whole: Recipe, *, entering: Recipe) -> Range | Choices:
    """One line of [space]. Both ends of a range, and every choice, must be allowed by the setting."""
    known = {dotted: one for one in whole.instances for dotted in dotted_settings(one) if ".inputs." not in dotted}
    if name not in known:
        raise RecipeError(f"space.{name}: " + _unknown("setting", name, list(known)))
    instance = known[name]
    if instance.name not in {one.name for one in entering.instances}:
        names = ", ".join(one.name for one in entering.instances)
        raise RecipeError(f"space.{name}: {instance.name} does not enter the metric; what does: {names}")
    if not isinstance(table, dict):
        raise RecipeError(f"space.{name}: write {{ low = …, high = … }} or {{ choices = […] }} (got {table!r})")
    dimension: Range | Choices = _build(Choices if "choices" in table else Range, table, f"space.{name}")
    setting = name.partition(".")[2]
    for value in dimension.ends:
        try:
            replace(instance.stage, **{setting: value})
        except ValidationError as error:
            raise RecipeError(_complaint(error, f"space.{instance.name}")) from None
    return dimension


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"
