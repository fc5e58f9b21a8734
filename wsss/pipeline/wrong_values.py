"""What is wrong with the value of a setting, in words: pydantic's errors, with what is allowed and what was meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ArgsKwargs

from wsss.pipeline.recipe_tables import unknown_name

_NEEDED = {
    "bool": "true or false",
    "dict": "a table, as { NAME = VALUE }",
    "float": "a number",
    "int": "a whole number",
    "list": "a list, as [A, B]",
    "path": "a path in quotes",
    "string": "a text in quotes",
    "tuple": "a list, as [A, B]",
}
"""The first word of pydantic's name of an error, as `float` of `float_parsing` -> what the setting needs."""
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def first_complaint(error: ValidationError, where: str, *, known: Sequence[str] = ()) -> str:
    """The first error, with the dotted name of its setting; `where` is the name of what was validated, and `known` are
    the names of its settings."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "unexpected_keyword_argument":
        *above, name = (str(part) for part in first["loc"])
        return f"{'.'.join([where, *above])}: " + (
            unknown_name("setting", name, list(known)) if known and not above else f"unknown setting {name!r}"
        )
    # For a setting of several types, pydantic adds the type that it tried to the name.
    parts = [str(part) for part in first["loc"] if part not in ("int", "float", "str", "bool")]
    return f"{'.'.join([where, *parts])}: {wrong_value(first)}"


def wrong_value(error: Mapping[str, Any]) -> str:
    """A message for one entry of `ValidationError.errors()`: what is allowed, and the value that was given."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "a value is needed"
    if kind == "literal_error" and isinstance(value, str):
        return unknown_name("value", value, re.findall(r"'([^']*)'", context["expected"]))
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        limit = int(context[name]) if context[name] == int(context[name]) else context[name]
        return f"it must be {words} {limit} (got {value!r})"
    if kind == "finite_number":
        return f"it must be a finite number (got {value!r})"
    if kind == "string_pattern_mismatch":
        return f"it must match the pattern {context['pattern']} (got {value!r})"
    if kind in ("too_short", "too_long"):
        limit = context.get("min_length", context.get("max_length"))
        words = "at least" if kind == "too_short" else "at most"
        return f"it must hold {words} {limit} (got {context['actual_length']}: {value!r})"
    if (needed := _NEEDED.get(kind.partition("_")[0])) is not None:
        return f"it must be {needed} (got {value!r})"
    message = str(error["msg"]).removeprefix("Value error, ")
    # Of values that do not fit together, pydantic gives the arguments of the whole table; the message names them.
    return message if isinstance(value, ArgsKwargs) else f"{message} (got {value!r})"
