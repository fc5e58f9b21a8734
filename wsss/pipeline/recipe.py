"""Recipes: one TOML file per experiment, and `--set dotted.name=value` overrides; there is no other configuration.

    [recipe]                 name, seed, supervision
    [runtime]                where and how to run; never part of a fingerprint
    [defaults]               settings of every instance that has them and does not set them itself
    [defaults.KIND]          the same, for every instance of that kind
    [stages.NAME]            instances in order; `kind` if NAME is not itself a kind, `inputs` to choose its inputs

A string value `$NAME` is read from the environment variable NAME, so that a committed recipe holds no path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from shards.codec import to_json
from wsss.contract.folds import base_name, check_num_shards
from wsss.contract.resources import StageResources
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import hashed_values, resolved_values, settings
from wsss.contract.shard_numbers import check_shards_of_inputs
from wsss.contract.stage import DataStage, Instance, Map, Stage
from wsss.pipeline.fold_tables import check_fold, filled_slots, per_fold
from wsss.pipeline.recipe_tables import (
    TABLES,
    RecipeError,
    apply_override,
    from_environment,
    mistaken_inputs,
    read_tables,
    unknown_name,
    unknown_setting,
    with_defaults,
)
from wsss.pipeline.runtime_tables import check_resources, split_runtime
from wsss.pipeline.wrong_values import first_complaint
from wsss.stages.registry import STAGES, producers

T = TypeVar("T")
__all__ = ["Recipe", "RecipeError", "RecipeSettings", "RuntimeSettings", "dotted_settings", "load_recipe"]


_RESERVED = ("store", "outbox", "mlartifacts")
_SUPERVISION = ("image", "semi", "full")


def _not_reserved(name: str) -> str:
    if name in _RESERVED:
        raise ValueError(f"{', '.join(_RESERVED)} are names of folders that every run has; choose another name")
    return name


@settings
class RecipeSettings:
    """The table `[recipe]`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$"), AfterValidator(_not_reserved)]
    """Name of the run in MLflow and of its results folder."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """All random numbers are derived from this and the sample's key."""
    supervision: Literal["image", "semi", "full"] = "image"
    """Labels used in training: image-level labels, masks of some images, masks of all; must match the stages."""
    rules: Literal["none", "lid_track1"] = "none"
    """`lid_track1`: reject masks and boxes in training, as the rules of that challenge require."""
    only_if_read: tuple[str, ...] = ()
    """Instances that belong to the recipe only if another instance reads them, such as a second classifier that only
    some settings use; otherwise they are neither run nor planned."""
    expected_seconds: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Instance -> seconds it took when the recipe was measured; the initial estimate of the time left uses these.
    Entries for instances that are not in the recipe are ignored."""


@dataclass(frozen=True)
class Recipe:
    """A recipe with its instances in order, resolved and fingerprinted."""

    path: Path
    settings: RecipeSettings
    runtime: RuntimeSettings
    instances: tuple[Instance, ...]
    origins: Mapping[str, str]
    """Dotted name -> where its value was set; names not listed have their default value."""

    def instance(self, name: str) -> Instance:
        """The instance with that name. Raises `RecipeError`, listing the available names, if there is none."""
        for instance in self.instances:
            if instance.name == name:
                return instance
        raise RecipeError(unknown_name("instance", name, [i.name for i in self.instances]))

    def named(self, name: str) -> tuple[Instance, ...]:
        """What the recipe's file calls `name`: an instance, or the trainings of all folds. Raises `RecipeError`."""
        of_folds = tuple(one for one in self.instances if name in (one.name, base_name(one.name, one.stage)))
        return of_folds or (self.instance(name),)

    @property
    def fingerprint(self) -> str:
        """Identifies the whole pipeline: equal if all instances are equal."""
        return _digest([self.settings.name, [(i.name, i.fingerprint) for i in self.instances]])

    @property
    def results(self) -> Path:
        """Folder of results for people: tables, pictures, submissions."""
        return self.runtime.runs / self.settings.name


def load_recipe(
    path: Path, overrides: Iterable[str] = (), *, stand_in: Callable[[Stage], Stage] | None = None
) -> Recipe:
    """Read a recipe and apply `NAME=VALUE` overrides. Raises `RecipeError` if the recipe is invalid.

    `stand_in`: returns a replacement for each stage, to inspect a recipe without its data; environment variables need
    not be set in that case.
    """
    tables, origins = read_tables(path)
    for override in overrides:
        apply_override(tables, origins, override)
    tables = from_environment(tables, origins, required=stand_in is None)
    if unknown := sorted(set(tables) - {"recipe", "runtime", "defaults", "stages"}):
        raise RecipeError(f"{path}: unknown table [{unknown[0]}]; a recipe has {TABLES}")
    stages = with_defaults(tables, origins)
    recipe = _build(RecipeSettings, tables.get("recipe", {}), prefix="recipe")
    runtime = _runtime(
        tables.get("runtime", {}), {name: str(table.get("kind", name)) for name, table in stages.items()}
    )
    instances: list[Instance] = []
    for name, table in per_fold(stages, origins).items():
        placed = _resolve(
            name, table, instances, origins, recipe=recipe, runtime=runtime, stand_in=stand_in or (lambda stage: stage)
        )
        instances.append(placed)
    if not instances:
        raise RecipeError(f"{path}: a recipe needs at least one [stages.NAME] table")
    instances = _without_unread(recipe, instances)
    _check_supervision(recipe, instances)
    return Recipe(path, recipe, runtime, tuple(instances), origins)


def _without_unread(recipe: RecipeSettings, instances: list[Instance]) -> list[Instance]:
    """The instances without those of `only_if_read` that no other one reads."""
    for name in recipe.only_if_read:
        if name not in (names := [*dict.fromkeys(map(_table_name, instances))]):
            raise RecipeError("recipe.only_if_read: " + unknown_name("instance", name, names))
    kept: list[Instance] = []
    read: set[str] = set()
    for instance in reversed(instances):
        if _table_name(instance) not in recipe.only_if_read or instance.name in read:
            kept.append(instance)
            read |= {upstream.name for upstream in instance.inputs.values()}
    return kept[::-1]


def _table_name(instance: Instance) -> str:
    """The name of its table: the same for the trainings of all folds."""
    return base_name(instance.name, instance.stage)


def _check_supervision(recipe: RecipeSettings, instances: list[Instance]) -> None:
    """Check that the declared supervision is what the stages use, so that no result is reported with the wrong one."""
    most = max(instances, key=lambda instance: _SUPERVISION.index(instance.stage.supervision()))
    used = most.stage.supervision()
    if used != recipe.supervision:
        raise RecipeError(
            f"recipe.supervision = {recipe.supervision!r}, but its stages train with {used!r}"
            + (f" ({most.name})" if used != "image" else "")
            + f"; declare supervision = {used!r}"
        )
    if recipe.rules == "lid_track1":
        _check_lid_track1(instances)


def supervision_behind(instance: Instance) -> str:
    """The labels used to train an instance and everything upstream of it: `image`, `semi` or `full`, and boxes."""
    behind = [instance]
    for one in behind:
        behind += [upstream for upstream in one.inputs.values() if upstream not in behind]
    most = max((one.stage.supervision() for one in behind), key=_SUPERVISION.index)
    return f"{most} + boxes" if any(one.stage.reads_boxes() for one in behind) else most


def _check_lid_track1(instances: list[Instance]) -> None:
    """Track 1 of the LID challenge: training uses image-level labels only; masks are for validation."""
    for instance in instances:
        uses = "boxes" if instance.stage.reads_boxes() else "masks" if instance.stage.supervision() != "image" else ""
        if uses:
            raise RecipeError(
                f"recipe.rules = 'lid_track1' allows only image-level labels in training (no boxes, no masks), but "
                f"{instance.name} ({instance.stage.kind}) trains with {uses}; remove it, or set rules = 'none' and "
                "do not submit the result to that track"
            )


def _build(cls: type[T], table: Mapping[str, Any], *, prefix: str) -> T:
    """A settings object from a table; validation errors of pydantic are reported with dotted names."""
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in table:
        if name not in known:
            raise RecipeError(f"{prefix}.{name}: " + unknown_setting(name, known))
    try:
        return cls(**table)
    except ValidationError as error:
        raise RecipeError(first_complaint(error, prefix)) from None


def _runtime(table: Mapping[str, Any], kinds: Mapping[str, str]) -> RuntimeSettings:
    """The runtime's settings; `kinds`: instance -> its kind."""
    own, of_stages = split_runtime(table, kinds)
    built = {name: _build(StageResources, values, prefix=f"runtime.{name}") for name, values in of_stages.items()}
    check_resources(built, kinds)
    return replace(_build(RuntimeSettings, own, prefix="runtime"), stages=built)


def _resolve(
    name: str,
    table: Mapping[str, Any],
    earlier: list[Instance],
    origins: dict[str, str],
    *,
    recipe: RecipeSettings,
    runtime: RuntimeSettings,
    stand_in: Callable[[Stage], Stage],
) -> Instance:
    values = dict(table)
    kind = str(values.pop("kind", name))
    chosen = values.pop("inputs", {})
    if kind not in STAGES:
        raise RecipeError(f"[stages.{name}]: " + unknown_name("kind", kind, list(STAGES)) + "; give it with kind = ...")
    if not isinstance(chosen, dict) or not all(isinstance(upstream, str) for upstream in chosen.values()):
        raise RecipeError(f'{name}.inputs is {chosen!r}; write inputs = {{ SLOT = "INSTANCE" }}')
    stage: Stage = stand_in(_build(STAGES[kind], values, prefix=name))
    check_fold(name, stage)
    earlier = [one for one in earlier if base_name(one.name, one.stage) != base_name(name, stage)]
    inputs = {slot: _fill(name, stage, slot, chosen.get(slot), earlier) for slot in stage.used_slots()}
    unread = mistaken_inputs(name, sorted(set(stage.slots).intersection(chosen) - set(inputs)), origins)
    if extra := unread + sorted(set(chosen) - set(stage.slots)):
        if extra[0] in stage.slots:
            why = f"not read with the other settings of {name}; remove it from the table inputs in the recipe's file"
            raise RecipeError(f"{name}.inputs.{extra[0]}: {why}")
        raise RecipeError(f"{name}.inputs.{extra[0]}: " + unknown_setting(extra[0], list(stage.slots), what="input"))
    present: dict[str, Instance] = {}
    for slot, upstream in inputs.items():
        if upstream is not None:
            present |= filled_slots(name, stage, slot, upstream, earlier, named=chosen.get(slot))
    return placed_instance(name, stage, present, seed=recipe.seed, runs=runtime.runs)


def placed_instance(name: str, stage: Stage, inputs: Mapping[str, Instance], *, seed: int, runs: Path) -> Instance:
    """A stage with its inputs as an instance, fingerprinted, in the folder `runs`.

    Raises `RecipeError` if settings and inputs do not fit together.
    """
    try:
        digest = _fingerprint(stage, inputs, seed=seed)
        separable = isinstance(stage, DataStage) and stage.masks_only_measure()
        instance = Instance(
            name=name,
            stage=stage,
            seed=seed + getattr(stage, "seed_shift", 0),
            inputs=inputs,
            fingerprint=digest,
            path=runs.absolute() / "store" / f"{stage.kind}-{digest[:16]}",
            fingerprint_without_masks=_fingerprint(stage, inputs, seed=seed, masks=False) if separable else "",
        )
        _check_sources(instance)
        check_num_shards(instance)
        check_shards_of_inputs(instance)
        stage.check(instance)
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"[stages.{name}]: {error}") from error
    return instance


def _fingerprint(stage: Stage, inputs: Mapping[str, Instance], *, seed: int, masks: bool = True) -> str:
    """A hash of everything the result depends on; with `masks=False`, as seen by stages that do not read masks."""

    def of(upstream: Instance) -> str:
        without_masks = "" if stage.reads_masks() else upstream.fingerprint_without_masks
        return without_masks or upstream.fingerprint

    return _digest(
        [
            stage.kind,
            stage.revision_with(inputs),
            hashed_values(stage, masks=masks),
            seed if stage.draws() else None,
            stage.signature(masks=masks),
            {slot: of(upstream) for slot, upstream in inputs.items()},
        ]
    )


def _check_sources(instance: Instance) -> None:
    """Layers that are read together must be based on the same shards, and all inputs on the same class list."""
    upstreams = list(instance.inputs.values())
    layers = [upstream for upstream in upstreams if isinstance(upstream.stage, Map)]
    for first, other in pairwise(layers):
        if first.samples.fingerprint != other.samples.fingerprint:
            one, two = (f"{i.name} ({i.fingerprint[:16]}, of {i.samples.name})" for i in (first, other))
            raise ValueError(f"{one} and {two} are based on different shards; choose inputs of the same build_shards")
    for first, other in pairwise(upstreams):
        if first.taxonomy.names != other.taxonomy.names:
            one, two = (f"{i.name} ({i.fingerprint[:16]}, {len(i.taxonomy)} classes)" for i in (first, other))
            raise ValueError(f"{one} and {two} have different class lists; choose inputs that have the same class list")


def _fill(name: str, stage: Stage, slot: str, chosen: str | None, earlier: list[Instance]) -> Instance | None:
    """The instance for an input: the one named in `inputs`, else the latest earlier one that is selected by default."""
    wanted = stage.slots[slot]
    fitting = [instance for instance in earlier if wanted.accepts(type(instance.stage))]
    if chosen is None:
        if unnamed := [instance for instance in fitting if not wanted.must_be_named(type(instance.stage))]:
            return unnamed[-1]
        if slot in stage.optional_slots:
            return None
        hint = f"; {fitting[-1].name} is read only if inputs = {{ {slot} = ... }} names it" if fitting else ""
        raise RecipeError(
            f"{name} reads {slot} from {' or '.join(producers(wanted))}, but there is no such instance before it{hint}"
            f"; add one to the recipe before [stages.{name}]"
        )
    for instance in earlier:
        if chosen in (instance.name, base_name(instance.name, instance.stage)):
            if instance not in fitting:
                raise RecipeError(
                    f"{name}.inputs.{slot} names {chosen}, a {instance.stage.kind}; it takes {wanted}, from "
                    f"{' or '.join(producers(wanted))}"
                )
            return instance
    names = list(dict.fromkeys(base_name(i.name, i.stage) for i in earlier))
    raise RecipeError(f"{name}.inputs.{slot}: " + unknown_name("earlier instance", chosen, names))


def _digest(value: object) -> str:
    return hashlib.sha256(to_json(value)).hexdigest()


def dotted_settings(instance: Instance) -> dict[str, object]:
    """Dotted name -> value of every setting of an instance, and of its inputs."""
    values = {f"{instance.name}.{name}": value for name, value in resolved_values(instance.stage).items()}
    reads = {f"{instance.name}.inputs.{slot}": upstream.name for slot, upstream in instance.inputs.items()}
    return values | reads
