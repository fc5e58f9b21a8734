"""The files that a run writes to RUNS/RECIPE, each with a .json file that describes how it was made.

Their names end in the first digits of a fingerprint (`results-1a2b3c4d.md`), so that results of other settings or
instances do not overwrite each other. A file without these digits, `results.md`, is a copy of the latest one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.files import replacing, sha256_of, write_bytes
from wsss.contract.stage import Instance
from wsss.pipeline.changed_settings import changed_settings
from wsss.pipeline.recipe import Recipe

DIGITS = 8
_FEW = 3
"""Number of digits of a fingerprint in a file's name, as in the names of MLflow runs."""


@dataclass(frozen=True)
class FileName:
    """`NAME-1a2b3c4d`, without a file extension."""

    name: str
    fingerprint: str

    @property
    def stem(self) -> str:
        """The name as a valid file name: an instance name may contain characters that file names must not."""
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.name).lstrip('.') or '_'}-{self.fingerprint[:DIGITS]}"


def in_words(changed: Mapping[str, object]) -> str:
    """`changed_settings` as text; a value that many instances have for a setting (--set defaults.*) is named once."""
    same: dict[tuple[str, str], list[str]] = {}
    for name, value in changed.items():
        same.setdefault((name.partition(".")[2], json.dumps(value)), []).append(name)
    parts = []
    for (setting, value), names in same.items():
        if len(names) > _FEW:
            parts.append(f"{setting} = {value} of {len(names)} instances")
        else:
            parts += [f"{name} = {value}" for name in names]
    return ", ".join(parts) or "the recipe file unchanged"


def described(recipe: Recipe, what: Mapping[str, object], *, behind: Instance | None = None) -> dict[str, object]:
    """The content of a .json file: the recipe, or the part of it upstream of `behind`, and `what`."""
    return {
        "recipe": recipe.settings.name,
        "recipe_file": str(recipe.path),
        "changed_settings": changed_settings(recipe, behind),
        "pipeline": recipe.fingerprint,
        **what,
    }


def write_description(path: Path, description: Mapping[str, object]) -> None:
    """Write the .json description of a file."""
    write_bytes(path, (json.dumps(description, indent=1) + "\n").encode())


def read_description(path: Path) -> dict[str, Any]:
    """The .json description of a file; empty if it does not exist or cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def copy_file(source: Path, target: Path) -> None:
    """Copy a file of any size atomically; nothing is written if the target has the same content already."""
    if target.is_file() and target.stat().st_size == source.stat().st_size and sha256_of(target) == sha256_of(source):
        return
    with source.open("rb") as read, replacing(target) as written:
        shutil.copyfileobj(read, written)
