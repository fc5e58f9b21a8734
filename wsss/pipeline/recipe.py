"""Recipes: one TOML file per experiment, `--set dotted.name=value` on top, nothing else.

    [recipe]                 name, seed, supervision
    [runtime]                where and how: never part of a fingerprint
    [defaults]               settings of every instance that has them and does not give its own
    [defaults.KIND]          the same, of every instance of that kind
    [stages.NAME]            instances in order; `kind` where NAME is not itself a kind, `inputs` where not the obvious

A string value `$NAME` is read from the environment variable NAME, so that a committed recipe holds no path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from shards.codec import to_json
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.settings import hashed_values, setting_values, settings
from wsss.contract.stage import DataStage, Instance, Map, Stage
from wsss.pipeline.recipe_tables import (
    TABLES,
    RecipeError,
    apply_override,
    from_environment,
    read_tables,
    unknown_name,
    unknown_setting,
    with_defaults,
)
from wsss.stages.registry import STAGES, producers

T = TypeVar("T")
__all__ = ["Recipe", "RecipeError", "RecipeSettings", "RuntimeSettings", "dotted_settings", "load_recipe"]


_RESERVED = ("store", "outbox", "mlartifacts")
_SUPERVISION = ("image", "semi", "full")


def _not_reserved(name: str) -> str:
    if name in _RESERVED:
        raise ValueError(f"{', '.join(_RESERVED)} are folders that every run has; choose another name")
    return name


@settings
class RecipeSettings:
    """The table `[recipe]`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$"), AfterValidator(_not_reserved)]
    """Names the run in MLflow and its folder of results."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Everything random is drawn from this and the sample's key."""
    supervision: Literal["image", "semi", "full"] = "image"
    """Which labels training uses: image-level labels, masks of some images, masks of all; must say what stages do."""
    rules: Literal["none", "lid_track1"] = "none"
    """`lid_track1`: what that challenge forbids in training, masks and boxes, is refused."""
    expected_seconds: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Instance -> seconds it took where the recipe was measured; the estimate of what is left starts from these.
    Entries of instances that the recipe does not have are ignored."""


@dataclass(frozen=True)
class Recipe:
    """A recipe with its instances in order, resolved and fingerprinted."""

    path: Path
    settings: RecipeSettings
    runtime: RuntimeSettings
    instances: tuple[Instance, ...]
    origins: Mapping[str, str]
    """Dotted name -> where its value came from; names that are not here hold their default."""

    def instance(self, name: str) -> Instance:
        """The instance of that name. Raises `RecipeError` with the names there are."""
        for instance in self.instances:
            if instance.name == name:
                return instance
        raise RecipeError(unknown_name("instance", name, [i.name for i in self.instances]))

    @property
    def fingerprint(self) -> str:
        """Identifies the whole chain: equal where every instance is equal."""
        return _digest([self.settings.name, [(i.name, i.fingerprint) for i in self.instances]])

    @property
    def results(self) -> Path:
        """Folder of what a person looks at: table, pictures, submission."""
        return self.runtime.runs / self.settings.name


def load_recipe(
    path: Path, overrides: Iterable[str] = (), *, stand_in: Callable[[Stage], Stage] | None = None
) -> Recipe:
    """Read a recipe and apply `NAME=VALUE` overrides. Raises `RecipeError` for anything it cannot mean.

    `stand_in`: gives, for every stage, the one that takes its place, for a look at a recipe whose data are not here;
    then environment variables need not be set either.
    """
    tables, origins = read_tables(path)
    for override in overrides:
        apply_override(tables, origins, override)
    tables = from_environment(tables, origins, required=stand_in is None)
    if unknown := sorted(set(tables) - {"recipe", "runtime", "defaults", "stages"}):
        raise RecipeError(f"{path}: unknown table [{unknown[0]}]; a recipe has {TABLES}")
    stages = with_defaults(tables, origins)
    recipe = _build(RecipeSettings, tables.get("recipe", {}), prefix="recipe")
    runtime = _build(RuntimeSettings, tables.get("runtime", {}), prefix="runtime")
    instances: list[Instance] = []
    for name, table in stages.items():
        placed = _resolve(
            name, table, instances, recipe=recipe, runtime=runtime, stand_in=stand_in or (lambda stage: stage)
        )
        instances.append(placed)
    if not instances:
        raise RecipeError(f"{path}: a recipe needs at least one [stages.NAME] table")
    _check_supervision(recipe, instances)
    return Recipe(path, recipe, runtime, tuple(instances), origins)


def _check_supervision(recipe: RecipeSettings, instances: list[Instance]) -> None:
    """What a recipe declares is what it uses: a result from masks must never pass for one from image labels."""
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
    """The labels that an instance and all that it is made of were trained with: `image`, `semi`, `full`, boxes."""
    behind = [instance]
    for one in behind:
        behind += [upstream for upstream in one.inputs.values() if upstream not in behind]
    most = max((one.stage.supervision() for one in behind), key=_SUPERVISION.index)
    return f"{most} + boxes" if any(one.stage.reads_boxes() for one in behind) else most


def _check_lid_track1(instances: list[Instance]) -> None:
    """Track 1 of the LID challenge: image-level labels alone train; masks exist for validation only."""
    for instance in instances:
        uses = "boxes" if instance.stage.reads_boxes() else "masks" if instance.stage.supervision() != "image" else ""
        if uses:
            raise RecipeError(
                f"recipe.rules = 'lid_track1' allows image-level labels alone in training (no boxes, no masks), but "
                f"{instance.name} ({instance.stage.kind}) trains with {uses}; take it out, or set rules = 'none' and "
                "do not submit the result to that track"
            )


def _build(cls: type[T], table: Mapping[str, Any], *, prefix: str) -> T:
    """A settings object from a table; pydantic's complaints in terms of dotted names."""
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in table:
        if name not in known:
            raise RecipeError(f"{prefix}.{name}: " + unknown_setting(name, known))
    try:
        return cls(**table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([prefix, *(str(part) for part in first["loc"])])
        came = "" if first["type"] == "missing" else f" (got {first['input']!r})"
        raise RecipeError(f"{where}: {first['msg'].removeprefix('Value error, ')}{came}") from None


def _resolve(
    name: str,
    table: Mapping[str, Any],
    earlier: list[Instance],
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
    inputs = {slot: _fill(name, stage, slot, chosen.get(slot), earlier) for slot in stage.used_slots()}
    if extra := sorted(set(chosen) - set(inputs)):
        if extra[0] in stage.slots:
            raise RecipeError(f"{name}.inputs.{extra[0]}: with its other settings {name} does not read it; take it out")
        raise RecipeError(f"{name}.inputs.{extra[0]}: " + unknown_setting(extra[0], list(stage.slots), what="input"))
    present = {slot: instance for slot, instance in inputs.items() if instance is not None}
    try:
        digest = _fingerprint(stage, present, seed=recipe.seed)
        separable = isinstance(stage, DataStage) and stage.masks_only_measure()
        instance = Instance(
            name=name,
            stage=stage,
            seed=recipe.seed + getattr(stage, "seed_shift", 0),
            inputs=present,
            fingerprint=digest,
            path=runtime.runs.absolute() / "store" / f"{kind}-{digest[:16]}",
            fingerprint_without_masks=_fingerprint(stage, present, seed=recipe.seed, masks=False) if separable else "",
        )
        _check_sources(instance)
        stage.check(instance)
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"[stages.{name}]: {error}") from error
    return instance


def _fingerprint(stage: Stage, inputs: Mapping[str, Instance], *, seed: int, masks: bool = True) -> str:
    """A hash of all that the result depends on; without `masks`, of samples as stages see them that read no mask."""

    def of(upstream: Instance) -> str:
        without_masks = "" if stage.reads_masks() else upstream.fingerprint_without_masks
        return without_masks or upstream.fingerprint

    return _digest(
        [
            stage.kind,
            stage.revision,
            hashed_values(stage, masks=masks),
            seed if stage.draws() else None,
            stage.signature(masks=masks),
            {slot: of(upstream) for slot, upstream in inputs.items()},
        ]
    )


def _check_sources(instance: Instance) -> None:
    """Layers that are read side by side must stand on the same shards, and all that is read on the same class list."""
    upstreams = list(instance.inputs.values())
    layers = [upstream for upstream in upstreams if isinstance(upstream.stage, Map)]
    for first, other in pairwise(layers):
        if first.samples.fingerprint != other.samples.fingerprint:
            one, two = (f"{i.name} ({i.fingerprint[:16]}, of {i.samples.name})" for i in (first, other))
            raise ValueError(
                f"{one} and {two} stand on different shards; name instances of one build_shards under inputs"
            )
    for first, other in pairwise(upstreams):
        if first.taxonomy.names != other.taxonomy.names:
            one, two = (f"{i.name} ({i.fingerprint[:16]}, {len(i.taxonomy)} classes)" for i in (first, other))
            raise ValueError(
                f"{one} and {two} have different class lists; name instances of one class list under inputs"
            )


def _fill(name: str, stage: Stage, slot: str, chosen: str | None, earlier: list[Instance]) -> Instance | None:
    """The instance that fills a slot: the one named, else the latest earlier one of a kind that needs no naming."""
    wanted = stage.slots[slot]
    fitting = [instance for instance in earlier if wanted.accepts(type(instance.stage))]
    if chosen is None:
        if unnamed := [instance for instance in fitting if not wanted.must_be_named(type(instance.stage))]:
            return unnamed[-1]
        if slot in stage.optional_slots:
            return None
        hint = f"; {fitting[-1].name} is read only where inputs = {{ {slot} = ... }} names it" if fitting else ""
        raise RecipeError(
            f"{name} reads {slot} from {' or '.join(producers(wanted))}, but no such instance stands before it{hint}"
        )
    for instance in earlier:
        if instance.name == chosen:
            if instance not in fitting:
                raise RecipeError(
                    f"{name}.inputs.{slot} names {chosen}, a {instance.stage.kind}; it takes {wanted}, from "
                    f"{' or '.join(producers(wanted))}"
                )
            return instance
    raise RecipeError(f"{name}.inputs.{slot}: " + unknown_name("earlier instance", chosen, [i.name for i in earlier]))


def _digest(value: object) -> str:
    return hashlib.sha256(to_json(value)).hexdigest()


def dotted_settings(instance: Instance) -> dict[str, object]:
    """Every setting of an instance under its dotted name, and which instances it reads."""
    values = {f"{instance.name}.{name}": value for name, value in setting_values(instance.stage).items()}
    reads = {f"{instance.name}.inputs.{slot}": upstream.name for slot, upstream in instance.inputs.items()}
    return values | reads
