"""`wsss show`: the instances of a recipe in order, what is done, what would run, and every setting with its origin."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shards.layer import ShardError
from wsss.contract.settings import setting_values, unread_settings
from wsss.contract.stage import Instance, Map
from wsss.pipeline.recipe import Recipe, dotted_settings


def render_recipe(recipe: Recipe, out: Console) -> None:
    """Print the recipe's state and settings; nothing is run or written."""
    chain = Table(title=Text(f"{recipe.settings.name}: {recipe.path}"), title_justify="left")
    for header in ("instance", "kind", "reads", "state", "fingerprint"):
        chain.add_column(header)
    for instance in recipe.instances:
        reads = ", ".join(f"{slot}: {up.name}" for slot, up in instance.inputs.items())
        cells = (instance.name, instance.stage.kind, reads, state_of(instance), instance.fingerprint[:16])
        chain.add_row(*map(Text, cells))
    out.print(chain)
    for instance in recipe.instances:
        for line in _preview(instance):
            out.print(Text(f"{instance.name}: {line}"), soft_wrap=True)
    settings = Table(title="settings", title_justify="left")
    for header in ("name", "value", "from"):
        settings.add_column(header)
    for prefix, group in (("recipe", recipe.settings), ("runtime", recipe.runtime)):
        for name, value in setting_values(group).items():
            origin = recipe.origins.get(f"{prefix}.{name}", "default")
            settings.add_row(*map(Text, (f"{prefix}.{name}", str(value), origin)))
    for instance in recipe.instances:
        settings.add_section()
        unread = unread_settings(instance.stage)
        for dotted, value in dotted_settings(instance).items():
            origin = recipe.origins.get(".".join(dotted.split(".")[:2]), "default")
            name = dotted.removeprefix(f"{instance.name}.")
            note = f", read only with {unread[name]}" if name in unread else ""
            settings.add_row(*map(Text, (dotted, str(value), origin + note)))
    out.print(settings)


def unread_given(recipe: Recipe) -> list[str]:
    """A line for every setting that an instance's own table or `--set` gives and that its other settings leave unread.

    What `[defaults]` gives is for many instances and told by none; neither is one that is off by its own value.
    """
    lines = []
    for instance in recipe.instances:
        stage = instance.stage
        for name, condition in unread_settings(stage).items():
            origin = recipe.origins.get(f"{instance.name}.{name}")
            shared = {f"defaults.{name}", f"defaults.{stage.kind}.{name}"} & set(recipe.origins)
            if origin and not shared and not condition.startswith(f"{name} "):
                value = setting_values(stage)[name]
                lines.append(f"{instance.name}.{name} = {value!r} ({origin}) is read only with {condition}")
    return lines


def _preview(instance: Instance) -> list[str]:
    """Empty where what the stage reads is not there yet."""
    return instance.stage.preview(instance) if all(up.is_done() for up in instance.inputs.values()) else []


def state_of(instance: Instance) -> str:
    """`done`, `skipped`, `12 of 40 shards done`, or `would run`."""
    if instance.is_done():
        record = instance.run_record()
        return f"done in {record.seconds:.0f} s" if record else "done"
    if all(up.is_done() for up in instance.inputs.values()) and (reason := instance.stage.skip_reason(instance)):
        return f"skipped: {reason}"
    if isinstance(instance.stage, Map) and instance.path.is_dir():  # else naming them may cost a look at all files
        try:
            shards = instance.stage.shards(instance)
        except ShardError:
            return "would run"
        finished = sum(instance.layer.is_finished(shard) for shard in shards)
        return f"would run: {finished} of {len(shards)} shards done" if finished else "would run"
    if (instance.path / "checkpoints" / "latest.json").exists():
        return "would go on from its checkpoint"
    return "would run"
