"""TOML of settings, as recipes are written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def toml_lines(table: Mapping[str, Any]) -> list[str]:
    """A line `NAME = VALUE` for each setting."""
    return [f"{_key(name)} = {toml_text(value)}" for name, value in table.items()]


def toml_text(value: Any) -> str:
    """A value as TOML, which is JSON's form for all but tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(toml_lines(value)) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_text(item) for item in value) + "]"
    return json.dumps(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
