"""How a setting is declared: frozen keyword-only dataclasses validated by pydantic, a docstring under every field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field

from shards.files import sha256_of

T = TypeVar("T")
Scales = Annotated[tuple[Annotated[float, Field(ge=0.05, le=16)], ...], Field(min_length=1)]
"""A setting: sizes of an image, as factors."""


@dataclass(frozen=True)
class NotHashedPath:
    """Marks a setting that names a place on this machine: it never enters a fingerprint."""


@dataclass(frozen=True)
class PerformanceOnly:
    """Marks a setting that says how fast a result comes, and changes nothing of it: it never enters a fingerprint."""


@dataclass(frozen=True)
class MeasuringOnly:
    """Marks a setting of masks that only measure: it never enters the fingerprint of what is trained without them."""


@dataclass(frozen=True)
class ActiveIf:
    """Marks a setting that is read only where others have certain values: elsewhere it enters no fingerprint."""

    condition: str
    """In words, for `wsss show`."""
    holds: Callable[[Any], bool]


def active_with(setting: str, *values: str) -> ActiveIf:
    """Marks a setting that is read only with these values of another."""
    condition = f"{setting} = {' or '.join(repr(value) for value in values)}"
    return ActiveIf(condition, lambda stage: getattr(stage, setting) in values)


def active_unless(setting: str, value: object) -> ActiveIf:
    """Marks a setting that with this value is off: then it enters no fingerprint, as if there were no such setting.

    A result that was made before the setting existed keeps its fingerprint.
    """
    return ActiveIf(f"{setting} other than {value!r}", lambda stage: getattr(stage, setting) != value)


@dataclass(frozen=True)
class FileContent:
    """Marks a setting that may name a file: the file's content enters the fingerprint, not its path."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """Class decorator: every field becomes a validated setting; unknown names and wrong types are refused."""
    make: Callable[[type[T]], type[T]] = pydantic.dataclasses.dataclass(  # type: ignore[assignment]
        frozen=True,
        kw_only=True,
        config=ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False),
    )
    return make(cls)


def _field_info(cls: type) -> dict[str, Any]:
    return cls.__pydantic_fields__  # type: ignore[attr-defined]


def setting_docs(cls: type) -> dict[str, str]:
    """Name of every setting -> its docstring, also where the setting is inherited (pydantic forgets it there)."""
    written = {
        name: info.description
        for base in reversed(cls.__mro__)
        for name, info in getattr(base, "__pydantic_fields__", {}).items()
        if info.description
    }
    return {name: written.get(name, "") for name in _field_info(cls)}


def setting_values(stage: object) -> dict[str, object]:
    """Name -> value of every setting, in JSON's types."""
    return {field.name: _plain(getattr(stage, field.name)) for field in fields(stage)}  # type: ignore[arg-type]


def inactive_settings(stage: object) -> dict[str, str]:
    """Settings that the others' values leave unread -> the condition on which they would be read."""
    marks = {name: info.metadata for name, info in _field_info(type(stage)).items()}
    return {
        name: mark.condition
        for name, metadata in marks.items()
        for mark in metadata
        if isinstance(mark, ActiveIf) and not mark.holds(stage)
    }


def hashed_values(stage: object, *, masks: bool = True) -> dict[str, object]:
    """The settings as they enter a fingerprint: places, speed and what nothing reads left out, files by content.

    Without `masks`, those of masks that only measure are left out too.
    """
    left_out: tuple[type, ...] = (
        (NotHashedPath, PerformanceOnly) if masks else (NotHashedPath, PerformanceOnly, MeasuringOnly)
    )
    values, unread = setting_values(stage), inactive_settings(stage)
    for name, info in _field_info(type(stage)).items():
        if name in unread or any(isinstance(mark, left_out) for mark in info.metadata):
            del values[name]
        elif any(isinstance(mark, FileContent) for mark in info.metadata):
            path = Path(str(values[name]))
            if path.is_file():
                values[name] = f"sha256:{sha256_of(path)}"
    return values


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
