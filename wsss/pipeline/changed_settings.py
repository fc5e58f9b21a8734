"""The settings of a recipe that `--set` changed, and all of them, as they are recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping

from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe, dotted_settings


def changed_settings(recipe: Recipe, behind: Instance | None = None) -> dict[str, object]:
    """Dotted name -> value of the settings changed by `--set`, except `[runtime]`, which does not change results.

    `behind`: only settings of this instance and of everything upstream of it.
    """
    found = resolved_settings(recipe, behind)
    return {name: value for name, value in found.items() if _origin(recipe, name) == "--set"}


def resolved_settings(recipe: Recipe, behind: Instance | None = None) -> dict[str, object]:
    """Dotted name -> value of all settings but `[runtime]`; `behind` as above."""
    values: dict[str, object] = {"recipe.seed": recipe.settings.seed, "recipe.name": recipe.settings.name}
    names = {instance.name for instance in recipe.instances} if behind is None else set(lineage(behind))
    for instance in recipe.instances:
        if instance.name in names:
            values |= dotted_settings(instance)
    return values


def lineage(instance: Instance) -> dict[str, str]:
    """Name -> fingerprint of an instance and of everything upstream of it."""
    found = {instance.name: instance.fingerprint}
    for upstream in instance.inputs.values():
        found |= lineage(upstream)
    return found


def resolved_recipe(recipe: Recipe) -> str:
    """The recipe with all its settings, as TOML: a recipe file itself, which gives the same fingerprints."""
    settings = {
        "name": recipe.settings.name,
        "seed": recipe.settings.seed,
        "supervision": recipe.settings.supervision,
        "rules": recipe.settings.rules,
    }
    parts = ["[recipe]", *_lines(settings)]
    for instance in recipe.instances:
        own = f"{instance.name}."
        values = {name.removeprefix(own): value for name, value in dotted_settings(instance).items()}
        inputs = {name.removeprefix("inputs."): values.pop(name) for name in list(values) if name.startswith("inputs.")}
        inputs = {slot: name for slot, name in inputs.items() if slot in instance.stage.slots}  # the other folds follow
        parts += ["", f"[stages.{_key(instance.name)}]", *_lines({"kind": instance.stage.kind} | values)]
        if inputs:
            parts.append(f"inputs = {_toml(inputs)}")
    return "\n".join(parts) + "\n"


def _lines(values: Mapping[str, object]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_toml(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: object) -> str:
    text = str(name)
    return text if text.replace("-", "_").isidentifier() and text.isascii() else json.dumps(text, ensure_ascii=False)


def _origin(recipe: Recipe, dotted: str) -> str:
    return recipe.origins.get(".".join(dotted.split(".")[:2]), "default")
