"""`wsss show`: the instances of a recipe in order, which are done or would run, and all settings with their origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shards.layer import ShardError
from wsss.contract.folds import base_name, cautions_of, crossed_slots
from wsss.contract.settings import inactive_settings, setting_values
from wsss.contract.stage import Instance, Map
from wsss.pipeline.fold_tables import check_counted_shards
from wsss.pipeline.recipe import Recipe, RecipeError
from wsss.report.setting_tables import setting_rows, settings_table, value_cell
from wsss.report.tables import Cell, Column, Page, Shown, table_of

_INSTANCES = (
    Column("instance", "instance", role="name"),
    Column("kind", "kind"),
    Column("reads", "reads", wraps=True),
    Column("state", "state", wraps=True),
    Column("fingerprint", "fingerprint"),
)


def recipe_page(recipe: Recipe, *, changed: bool = False, absent: str = "") -> Page:
    """The recipe's state and settings, or only those settings that differ from their default; nothing is run.

    `absent`: why the data are not available ("" if they are); states and fingerprints depend on them.
    """
    rows = [
        (
            instance.name,
            instance.stage.kind,
            _reads(instance),
            None if absent else state_of(instance),
            None if absent else instance.fingerprint[:16],
        )
        for instance in recipe.instances
    ]
    shown = () if absent else recipe.instances
    previews = [f"{instance.name}: {line}" for instance in shown for line in _preview(instance)]
    cautions = [line for instance in shown for line in cautions_of(instance)] + _refusal(shown)
    chain = table_of(
        f"{recipe.settings.name}: {recipe.path}", _INSTANCES, rows, notes=(*_absence(absent), *previews, *cautions)
    )
    settings: list[tuple[Cell, ...]] = []
    for prefix in ("recipe", "runtime"):
        settings += _group_rows(recipe, prefix, changed=changed)
    for instance in recipe.instances:
        settings += _instance_rows(recipe, instance, changed=changed)
    title = "settings that differ from their default" if changed else "settings"
    return Page(
        tables={"instances": chain, "settings": settings_table(title, settings, explain=False)}, main="settings"
    )


def instance_page(recipe: Recipe, name: str, *, changed: bool = False, absent: str = "") -> Page:
    """The settings of one instance, of `recipe` or of `runtime`, each with its meaning. Raises `RecipeError`.

    Of a training with folds it is the page of the first; they have the same settings. `absent`: as in `recipe_page`.
    """
    if name in ("recipe", "runtime"):
        rows = _group_rows(recipe, name, changed=changed)
        return Page(tables={"settings": settings_table(f"[{name}] of {recipe.path}", rows, explain=True)})
    instance = recipe.named(name)[0]
    rows = list(_instance_rows(recipe, instance, changed=changed))
    title = f"{instance.name} ({instance.stage.kind})"
    heading: tuple[str, ...] = (title, *_absence(absent))
    if not absent:
        state = f"{title}: {state_of(instance)}; fingerprint {instance.fingerprint[:16]}"
        heading = (state, *_preview(instance), *cautions_of(instance), *_refusal([instance]))
    return Page(heading=heading, tables={"settings": settings_table(f"settings of {name}", rows, explain=True)})


def _refusal(instances: Sequence[Instance]) -> list[str]:
    """Why a run would stop before it begins; empty if nothing is known."""
    try:
        check_counted_shards(one for one in instances if not one.is_done())
    except RecipeError as error:
        return [f"a run is refused: {error}"]
    return []


def _group_rows(recipe: Recipe, name: str, *, changed: bool) -> list[tuple[Cell, ...]]:
    """The settings of [recipe], or of [runtime] and what is given in its tables of single stages."""
    if name == "recipe":
        return list(setting_rows(recipe.settings, name, recipe.origins, unread={}, changed=changed))
    # `stages` holds these tables; it is no setting by itself.
    general = replace(recipe.runtime, stages={})
    rows = list(setting_rows(general, name, recipe.origins, unread={}, changed=changed))
    rows = [row for row in rows if row[0] != f"{name}.stages"]
    for stage, given in recipe.runtime.stages.items():
        table = f"{name}.{stage}"
        origin = recipe.origins.get(table, "default")
        origins = {f"{table}.{setting}": origin for setting in setting_values(given)}
        rows += setting_rows(given, table, origins, unread={}, changed=True)
    return rows


def _absence(absent: str) -> tuple[str, ...]:
    if not absent:
        return ()
    return (f"the data are not available, so what is done and the fingerprints are not known: {absent}",)


def _reads(instance: Instance) -> Shown:
    crossed = crossed_slots(instance)
    names = {slot: upstream.name for slot, upstream in instance.inputs.items() if slot in instance.stage.slots}
    for slot, folds in crossed.items():
        names[slot] = f"{base_name(names[slot], instance.inputs[slot].stage)} ({folds} folds)"
    return Shown(names, ", ".join(names.values()))


def _instance_rows(recipe: Recipe, instance: Instance, *, changed: bool) -> list[tuple[Cell, ...]]:
    """The instance's settings, and which instances it reads."""
    stage, name = instance.stage, instance.name
    unread = inactive_settings(stage)
    rows = list(setting_rows(stage, name, recipe.origins, unread=unread, changed=changed))
    origin = recipe.origins.get(f"{name}.inputs", "default")
    if changed and origin == "default":
        return rows
    for slot, upstream in instance.inputs.items():
        allowed, meaning = "an earlier instance", "The instance that this one reads."
        rows.append((f"{name}.inputs.{slot}", value_cell(upstream.name), origin, None, meaning, allowed, "", True))
    return rows


def _preview(instance: Instance) -> list[str]:
    """The stage's preview; empty if its inputs are not done yet."""
    return instance.stage.preview(instance) if all(up.is_done() for up in instance.inputs.values()) else []


def state_of(instance: Instance) -> str:
    """`done`, `skipped`, `12 of 40 shards done`, or `would run`."""
    if instance.is_done():
        record = instance.run_record()
        return f"done in {record.seconds:.0f} s" if record else "done"
    if all(up.is_done() for up in instance.inputs.values()) and (reason := instance.stage.skip_reason(instance)):
        return f"skipped: {reason}"
    if isinstance(instance.stage, Map) and instance.path.is_dir():  # otherwise listing the shards may scan all files
        try:
            shards = instance.stage.shards(instance)
        except ShardError:
            return "would run"
        finished = sum(instance.layer.is_finished(shard) for shard in shards)
        return f"would run: {finished} of {len(shards)} shards done" if finished else "would run"
    if (instance.path / "checkpoints" / "latest.json").exists():
        return "would resume from its checkpoint"
    return "would run"
