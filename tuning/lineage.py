"""What led to a result, from the settings.json in its folder: its settings, and every instance behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINEAGE = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """One instance behind a result, with the instances that it reads."""

    name: str
    kind: str
    fingerprint: str
    settings: Mapping[str, Any]
    """Without the instance's name in front; with `seed`, if the seed enters its result."""
    upstream: Mapping[str, Ancestor]
    """Slot -> the instance that fills it."""

    def folder(self, runs: Path) -> Path:
        """Its folder in a folder of runs."""
        return runs.absolute() / "store" / f"{self.kind}-{self.fingerprint[:16]}"

    def all(self) -> dict[str, Ancestor]:
        """Fingerprint -> instance, of this one and everything behind it, what is read before what reads it."""
        found: dict[str, Ancestor] = {}
        for one in self.upstream.values():
            found |= {fingerprint: ancestor for fingerprint, ancestor in one.all().items() if fingerprint not in found}
        return found | {self.fingerprint: self}

    def nearest(self, kind: str) -> Ancestor | None:
        """The nearest instance of a kind at or above this one."""
        level = [self]
        while level:
            if found := [one for one in level if one.kind == kind]:
                return found[0]
            level = [upstream for one in level for upstream in one.upstream.values()]
        return None


class NoLineageError(ValueError):
    """The lineage of a result is gone; the message names its folder."""


def read_lineage(folder: Path) -> Ancestor:
    """The lineage of the instance that wrote this folder. Raises `NoLineageError`."""
    try:
        return _ancestor(json.loads((folder / LINEAGE).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoLineageError(
            f"{folder / LINEAGE} is gone or not readable ({type(error).__name__}), so what led to this result is not "
            "known; run its recipe again, or name the folder of runs that has it with --runs"
        ) from error


def _ancestor(node: Mapping[str, Any]) -> Ancestor:
    dotted: Mapping[str, Any] = node["settings"]
    name = next(iter(dotted), node["kind"]).split(".")[0]
    own = {key.removeprefix(f"{name}."): value for key, value in dotted.items()}
    return Ancestor(
        name=name,
        kind=node["kind"],
        fingerprint=node["fingerprint"],
        settings={key: value for key, value in own.items() if not key.startswith("inputs.")} | {"seed": node["seed"]},
        upstream={slot: _ancestor(upstream) for slot, upstream in node["upstream"].items()},
    )


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """An instance of either lineage, or of both if they have the same place."""

    a: Ancestor | None
    b: Ancestor | None

    @property
    def name(self) -> str:
        """The instance's name; both if they differ."""
        return " / ".join(dict.fromkeys(one.name for one in self.sides))

    @property
    def sides(self) -> tuple[Ancestor, ...]:
        """Those that there are."""
        return tuple(one for one in (self.a, self.b) if one is not None)

    @property
    def is_same(self) -> bool:
        """True if the fingerprints are equal: the same result."""
        return self.a is not None and self.b is not None and self.a.fingerprint == self.b.fingerprint


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting with different values; `ABSENT` on a side whose stage has no such setting."""

    name: str
    a: Any
    b: Any


ABSENT = object()


def align(a: Ancestor, b: Ancestor) -> list[Aligned]:
    """The two lineages side by side, what is read before what reads it.

    Instances correspond if the same slots lead to them and they are of the same kind, whatever their names; else if
    they are the same result, or have the same name and kind.
    """
    pairs: dict[tuple[str, str], Aligned] = {}
    _align(a, b, pairs)
    for is_match in (_same_result, _same_name):
        left_a, left_b = _unpaired(a, b, pairs)
        for one in left_a:
            match = next((other for other in left_b if is_match(one, other)), None)
            if match is not None:
                left_b.remove(match)
                pairs[one.fingerprint, match.fingerprint] = Aligned(a=one, b=match)
    left_a, left_b = _unpaired(a, b, pairs)
    rest = [*(Aligned(a=one, b=None) for one in left_a), *(Aligned(a=None, b=one) for one in left_b)]
    order = {one.fingerprint: place for lineage in (b, a) for place, one in enumerate(lineage.all().values())}
    return sorted([*pairs.values(), *rest], key=lambda one: max(order[side.fingerprint] for side in one.sides))


def _same_result(one: Ancestor, other: Ancestor) -> bool:
    return one.fingerprint == other.fingerprint


def _same_name(one: Ancestor, other: Ancestor) -> bool:
    return (one.name, one.kind) == (other.name, other.kind)


def _unpaired(
    a: Ancestor, b: Ancestor, pairs: Mapping[tuple[str, str], Aligned]
) -> tuple[list[Ancestor], list[Ancestor]]:
    """The instances of either lineage without a counterpart."""
    paired_a, paired_b = {first for first, _ in pairs}, {second for _, second in pairs}
    return (
        [one for one in a.all().values() if one.fingerprint not in paired_a],
        [one for one in b.all().values() if one.fingerprint not in paired_b],
    )


def _align(a: Ancestor, b: Ancestor, pairs: dict[tuple[str, str], Aligned]) -> None:
    if a.kind != b.kind or (a.fingerprint, b.fingerprint) in pairs:
        return
    for slot in [slot for slot in a.upstream if slot in b.upstream]:
        _align(a.upstream[slot], b.upstream[slot], pairs)
    pairs[a.fingerprint, b.fingerprint] = Aligned(a=a, b=b)


def differing_settings(aligned: list[Aligned]) -> Iterator[Difference]:
    """Settings with different values, of instances that both sides have."""
    for pair in aligned:
        if pair.a is None or pair.b is None or pair.is_same:
            continue
        for name in dict.fromkeys([*pair.a.settings, *pair.b.settings]):
            a, b = pair.a.settings.get(name, ABSENT), pair.b.settings.get(name, ABSENT)
            if a != b and name != "title":
                yield Difference(name=f"{pair.name}.{name}", a=a, b=b)
