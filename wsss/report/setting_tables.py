"""Allowed values and meaning of settings: the tables of `wsss show STAGE` and `wsss show RECIPE INSTANCE`."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic.fields import FieldInfo

from wsss.contract.resources import StageResources
from wsss.contract.settings import ActiveIf, resolved_values, setting_docs, setting_values
from wsss.report.tables import Cell, Column, Page, Shown, Table, table_of

_WORDS = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    StageResources: "resources",
}
_BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "(at least {} of them)",
    "max_length": "(at most {} of them)",
}
"""Attribute of pydantic's constraints -> its text."""
REQUIRED = "must be given"


@dataclass(frozen=True, kw_only=True)
class SettingInfo:
    """One setting of a stage, or of the tables [recipe] and [runtime]."""

    name: str
    allowed: str
    """As text."""
    choices: tuple[Any, ...]
    """All values, if they can be listed; else empty."""
    required: bool
    default: Any
    """In JSON types; None if there is none."""
    condition: str
    """Condition on other settings for this one to be used; empty if it is always used."""
    meaning: str

    @property
    def default_cell(self) -> Shown:
        return Shown(None, REQUIRED) if self.required else value_cell(self.default)


def settings_of(cls: type) -> dict[str, SettingInfo]:
    """Name -> description of each setting of a settings class."""
    docs, infos = setting_docs(cls), cls.__pydantic_fields__  # type: ignore[attr-defined]
    return {name: _info(name, info, docs[name]) for name, info in infos.items()}


def _info(name: str, info: FieldInfo, meaning: str) -> SettingInfo:
    required = info.is_required()
    conditions = [mark.condition for mark in info.metadata if isinstance(mark, ActiveIf)]
    return SettingInfo(
        name=name,
        allowed=_allowed(info.annotation, info.metadata),
        choices=_choices(info.annotation),
        required=required,
        default=None if required else _json(info.get_default(call_default_factory=True)),
        condition="; ".join(conditions),
        meaning=" ".join(meaning.split()),
    )


def value_cell(value: Any) -> Shown:
    """A setting's value, written as for `--set`."""
    return Shown(value, value if isinstance(value, str) and value else _toml(value))


def _toml(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def kind_page(title: str, cls: type) -> Page:
    """Every setting of a kind of stage, of [recipe] or of [runtime], independent of a recipe."""
    columns = (
        Column("setting", "name", role="name"),
        Column("default", "default", wraps=True),
        Column("allowed", "allowed", wraps=True),
        Column("meaning", "meaning", role="note"),
        Column("read only with", "read_only_with", role="note"),
    )
    rows = [
        (one.name, one.default_cell, one.allowed, one.meaning, _condition(one, "read only with"))
        for one in settings_of(cls).values()
    ]
    about = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    return Page(heading=(about,), tables={"settings": table_of(f"settings of {title}", columns, rows)})


def setting_rows(
    group: object, prefix: str, origins: Mapping[str, str], *, unread: Mapping[str, str], changed: bool
) -> Iterator[tuple[Cell, ...]]:
    """A row of `settings_table` for every setting of an instance, of [recipe] or of [runtime].

    `origins`: dotted name -> where its value was set. `unread`: setting -> the condition under which it would be used.
    `changed`: only those that differ from their default.
    """
    values, resolved = setting_values(group), resolved_values(group)
    for name, info in settings_of(type(group)).items():
        if changed and not info.required and values[name] == info.default:
            continue
        yield (
            f"{prefix}.{name}",
            value_cell(resolved[name]),
            origins.get(f"{prefix}.{name}", "default"),
            info.default_cell,
            info.meaning,
            Shown(info.allowed, f"allowed: {info.allowed}"),
            _condition(info, "not read: only with") if name in unread else Shown(info.condition, ""),
            name not in unread,
        )


def settings_table(title: str, rows: Sequence[tuple[Cell, ...]], *, explain: bool) -> Table:
    """The table of `setting_rows`. `explain`: show the meaning on the terminal too; CSV and JSON always include it."""
    more: Literal["note", "data"] = "note" if explain else "data"
    columns = (
        Column("setting", "name", role="name"),
        Column("value", "value", wraps=True),
        Column("from", "from", wraps=True),
        Column("default", "default", role="data"),
        Column("meaning", "meaning", role=more),
        Column("allowed", "allowed", role=more),
        Column("note", "read_only_with", role="note"),
        Column("read", "read", role="data"),
    )
    groups = [str(row[0]).partition(".")[0] for row in rows]
    starts = frozenset(at for at in range(1, len(rows)) if groups[at] != groups[at - 1])
    return table_of(title, columns, rows, sections=starts)


def _condition(info: SettingInfo, words: str) -> Shown:
    """The condition under which a setting is read; conditions on its own value are only in the data."""
    others = "; ".join(one for one in info.condition.split("; ") if one and not one.startswith(f"{info.name} "))
    return Shown(info.condition, f"{words} {others}" if others else "")


def _json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _choices(annotation: Any) -> tuple[Any, ...]:
    """All values of a type that has a short list of them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is bool:
        return (True, False)
    if origin is Literal:
        return arguments
    if origin is typing.Annotated:
        return _choices(arguments[0])
    return ()


def _allowed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type and its bounds as text."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _allowed(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return ", ".join(str(choice) for choice in arguments)
    bounds = " and ".join(filter(None, map(_bound, _flat(metadata))))
    if origin in (typing.Union, types.UnionType):
        given = " or ".join(_allowed(argument) for argument in arguments if argument is not type(None))
        text = f"{given}{', or not given' * (type(None) in arguments)}"
    elif origin in (tuple, list):
        kinds = [argument for argument in arguments if argument is not Ellipsis]
        text = (
            f"list of: {_allowed(kinds[0])}"
            if Ellipsis in arguments or origin is list
            else f"list of {len(kinds)}: {_allowed(kinds[0])}"
        )
    elif origin is dict:
        text = f"table of: {_allowed(arguments[1])}"
    else:
        text = _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return f"{text} {bounds}" if bounds else text


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    """Flatten constraints: pydantic's Field(...) has its own list of bounds."""
    for mark in metadata:
        yield from _flat(mark.metadata) if isinstance(mark, FieldInfo) else (mark,)


def _bound(mark: Any) -> str:
    """One of pydantic's bounds as text; empty for other constraints."""
    for name, words in _BOUNDS.items():
        if (bound := getattr(mark, name, None)) is not None:
            return words.format(bound)
    return ""
