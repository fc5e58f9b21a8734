"""How settings are declared: frozen keyword-only dataclasses validated by pydantic, with a docstring per field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, ConfigDict, Field

from shards.files import sha256_of

T = TypeVar("T")


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """A check of a setting that lists values. Raises: ValueError if one is repeated."""
    if repeated := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"values must be unique, got {repeated[0]!r} more than once")
    return values


Scales = Annotated[tuple[Annotated[float, Field(ge=0.05, le=16)], ...], Field(min_length=1), AfterValidator(distinct)]
"""A setting: scales of an image, as factors of its size."""


@dataclass(frozen=True)
class NotHashedPath:
    """Marks a setting that holds a path on this machine: it never enters a fingerprint."""


@dataclass(frozen=True)
class PerformanceOnly:
    """Marks a setting that affects speed but not the result: it never enters a fingerprint."""


@dataclass(frozen=True)
class MeasuringOnly:
    """Marks a setting about masks that are only used for evaluation: it does not enter the fingerprints of stages that
    do not read masks."""


@dataclass(frozen=True)
class ActiveIf:
    """Marks a setting that is only read if other settings have certain values; otherwise it enters no fingerprint."""

    condition: str
    """In words, for `wsss show`."""
    holds: Callable[[Any], bool]


def active_with(setting: str, *values: str) -> ActiveIf:
    """Marks a setting that is only read if another setting has one of these values."""
    condition = f"{setting} = {' or '.join(repr(value) for value in values)}"
    return ActiveIf(condition, lambda stage: getattr(stage, setting) in values)


def active_unless(setting: str, value: object) -> ActiveIf:
    """Marks a setting that has no effect at this value; it then enters no fingerprint, as if it did not exist.

    Results made before the setting existed keep their fingerprint.
    """
    return ActiveIf(f"{setting} other than {value!r}", lambda stage: getattr(stage, setting) != value)


@dataclass(frozen=True)
class DefaultBy:
    """Marks a setting whose default, None, stands for a value that other settings determine. The fingerprint contains
    that value, as if it had been given."""

    value_of: Callable[[Any], Any]
    """The stage -> the value."""


def resolved(stage: object, setting: str) -> Any:
    """The value of a setting; if it was not given and is marked by `DefaultBy`, the value that it stands for."""
    value = getattr(stage, setting)
    marks = [mark for mark in _field_info(type(stage))[setting].metadata if isinstance(mark, DefaultBy)]
    return marks[0].value_of(stage) if value is None and marks else value


@dataclass(frozen=True)
class FileContent:
    """Marks a setting that may name a file: the file's content enters the fingerprint, not its path."""

    shipped: Path | None = None
    """A folder in which a name without a slash is looked up instead of in the working folder."""

    def path(self, value: str) -> Path:
        """Where the file of a value is."""
        return self.shipped / value if self.shipped is not None and "/" not in value else Path(value)


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
    """Name of every setting -> its docstring, also for inherited settings (for which pydantic drops it)."""
    written = {
        name: info.description
        for base in reversed(cls.__mro__)
        for name, info in getattr(base, "__pydantic_fields__", {}).items()
        if info.description
    }
    return {name: written.get(name, "") for name in _field_info(cls)}


def setting_values(stage: object) -> dict[str, object]:
    """Name -> value of every setting, in JSON types."""
    return {field.name: _plain(getattr(stage, field.name)) for field in fields(stage)}  # type: ignore[arg-type]


def resolved_values(stage: object) -> dict[str, object]:
    """As `setting_values`, with the values that defaults marked by `DefaultBy` stand for."""
    return {field.name: _plain(resolved(stage, field.name)) for field in fields(stage)}  # type: ignore[arg-type]


def inactive_settings(stage: object) -> dict[str, str]:
    """Settings that are not read, given the values of the others -> the condition under which they are read."""
    marks = {name: info.metadata for name, info in _field_info(type(stage)).items()}
    return {
        name: mark.condition
        for name, metadata in marks.items()
        for mark in metadata
        if isinstance(mark, ActiveIf) and not mark.holds(stage)
    }


def hashed_values(stage: object, *, masks: bool = True) -> dict[str, object]:
    """The settings as they enter a fingerprint: without paths, performance settings and inactive settings; files are
    replaced by a hash of their content.

    Without `masks`, settings about masks that are only used for evaluation are left out too.
    """
    left_out: tuple[type, ...] = (
        (NotHashedPath, PerformanceOnly) if masks else (NotHashedPath, PerformanceOnly, MeasuringOnly)
    )
    values, unread = resolved_values(stage), inactive_settings(stage)
    for name, info in _field_info(type(stage)).items():
        if name in unread or any(isinstance(mark, left_out) for mark in info.metadata):
            del values[name]
        else:
            for mark in info.metadata:
                if isinstance(mark, FileContent) and (path := mark.path(str(values[name]))).is_file():
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
