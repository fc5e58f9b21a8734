"""Settings that were given and that nothing reads."""

from __future__ import annotations

from wsss.contract.settings import inactive_settings, setting_values
from wsss.pipeline.recipe import Recipe


def inactive_given(recipe: Recipe) -> list[str]:
    """A line for every setting or input that an instance's table or `--set` gives, and its other settings make unused.

    Settings from `[defaults]` are not reported, since they are for many instances; neither are settings whose own value
    disables them.
    """
    lines = []
    for instance in recipe.instances:
        stage = instance.stage
        for name, condition in inactive_settings(stage).items():
            origin = recipe.origins.get(f"{instance.name}.{name}")
            shared = {f"defaults.{name}", f"defaults.{stage.kind}.{name}"} & set(recipe.origins)
            if origin and not shared and not condition.startswith(f"{name} "):
                value = setting_values(stage)[name]
                lines.append(f"{instance.name}.{name} = {value!r} ({origin}) is read only with {condition}")
        for slot in stage.slots:
            origin = recipe.origins.get(f"{instance.name}.inputs.{slot}")
            if origin and slot not in instance.inputs:
                lines.append(f"{instance.name}.inputs.{slot} ({origin}) is not read with the values that --set gives")
    return lines
