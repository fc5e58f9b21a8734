"""What a result depends on in this tree, without data, weight files or folders of a machine.

A fingerprint contains a hash of the data, which only a machine with the data can compute. The digest here is the
fingerprint of the same instance without its data, together with the shipped lists of images that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from shards.codec import to_json
from shards.files import sha256_of
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.pipeline.dry_recipe import without_data
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.recipe_files import RECIPES
from wsss.stages.data_sets.shared import LISTS

_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Origin:
    """An instance as this tree defines it."""

    digest: str
    """Equal if the settings and revisions of the instance and of everything it reads are equal."""
    stages: Mapping[str, str]
    """The instance and everything it reads -> kind, revision and a digest of its settings, to name what changed."""


@cache
def recipe_without_data(name: str, overrides: tuple[str, ...]) -> Recipe:
    """A shipped recipe, whether or not this machine has its data. Raises `RecipeError`."""
    return load_recipe(shipped_recipe(name), overrides, stand_in=without_data)


def shipped_recipe(name: str) -> Path:
    """The file of a shipped recipe."""
    return RECIPES / f"{name}.toml"


def origin(instance: Instance) -> Origin:
    """The origin of an instance of `recipe_without_data`."""
    lists = shipped_lists(instance.samples)
    behind = _behind(instance)
    return Origin(
        digest=_digest([instance.fingerprint, lists]),
        stages={one.name: f"{one.stage.kind} {one.stage.own_revision()} {_digest(_own(one))}" for one in behind},
    )


def image_set(instance: Instance, split: str) -> str:
    """Equal for instances whose images of a split are the same: from the same shipped list, or made by equal stages."""
    listed = shipped_lists(instance.samples).get(split)
    return _digest(listed or instance.samples.fingerprint)


def shipped_lists(samples: Instance) -> dict[str, str]:
    """Split -> SHA-256 of the shipped list that it names."""
    named = getattr(samples.stage, "lists", {})
    return {split: sha256_of(LISTS / name) for split, name in named.items() if (LISTS / name).is_file()}


def _behind(instance: Instance) -> list[Instance]:
    """Everything that an instance reads, directly or not, and the instance itself; inputs first."""
    found: dict[str, Instance] = {}
    for upstream in instance.inputs.values():
        found |= {one.name: one for one in _behind(upstream)}
    return [*found.values(), *([] if instance.name in found else [instance])]


def _own(instance: Instance) -> list[object]:
    reads = {slot: upstream.name for slot, upstream in instance.inputs.items()}
    seed = instance.seed if instance.stage.draws() else None
    return [hashed_values(instance.stage), seed, reads]


def _digest(value: object) -> str:
    return sha256(to_json(value)).hexdigest()[:_DIGITS]
