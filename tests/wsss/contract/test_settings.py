from __future__ import annotations

import dataclasses
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from wsss.contract.settings import (
    DefaultBy,
    FileContent,
    NotHashedPath,
    active_unless,
    hashed_values,
    inactive_settings,
    resolved,
    resolved_values,
    setting_docs,
    setting_values,
    settings,
)


@settings
class Base:
    """Inherited settings."""

    speed: Annotated[float, Field(gt=0)] = 1.0
    """How fast."""


@settings
class Example(Base):
    """One setting of each sort."""

    root: Annotated[Path, NotHashedPath()] = Path("somewhere")
    """A place."""
    weights: Annotated[str, FileContent()] = "none"
    """A file."""
    sizes: tuple[int, ...] = (1, 2)
    """Numbers."""
    shares: dict[str, float] = Field(default_factory=dict)


def test_values_are_those_of_json() -> None:
    example = Example(sizes=(3,), shares={"a": 0.5})
    values = setting_values(example)
    assert values == {"speed": 1.0, "root": "somewhere", "weights": "none", "sizes": [3], "shares": {"a": 0.5}}


def test_docstrings_are_found_also_where_they_are_inherited() -> None:
    docs = {"speed": "How fast.", "root": "A place.", "weights": "A file.", "sizes": "Numbers.", "shares": ""}
    assert setting_docs(Example) == docs


@pytest.mark.parametrize("value", [{"speed": 0}, {"speed": float("nan")}, {"speed": "fast"}, {"sped": 1}])
def test_what_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Example(**value)  # type: ignore[arg-type]


def test_settings_do_not_change_and_travel(tmp_path: Path) -> None:
    example = Example(speed=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.speed = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(example)) == example


def test_places_are_not_hashed_and_files_by_their_content(tmp_path: Path) -> None:
    file, copy = tmp_path / "file", tmp_path / "copy"
    file.write_bytes(b"abc")
    copy.write_bytes(b"abc")
    hashed = hashed_values(Example(root=tmp_path, weights=str(file)))
    assert "root" not in hashed
    assert hashed["weights"] == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashed == hashed_values(Example(root=Path("elsewhere"), weights=str(copy)))
    assert hashed_values(Example(weights="none"))["weights"] == "none"


@settings
class Optional:
    """Something that is off at 0."""

    strength: Annotated[float, Field(ge=0), active_unless("strength", 0.0)] = 0.0
    """How much."""


def test_what_is_off_is_not_hashed() -> None:
    assert hashed_values(Optional()) == {} and inactive_settings(Optional()) == {"strength": "strength other than 0.0"}
    assert hashed_values(Optional(strength=1)) == {"strength": 1.0} and inactive_settings(Optional(strength=1)) == {}


@settings
class Dependent:
    """A default that depends on another setting."""

    kind: str = "plain"
    """Which."""
    amount: Annotated[float | None, DefaultBy(lambda stage: 2.0 if stage.kind == "double" else 1.0)] = None
    """How much."""


def test_a_default_that_depends_on_others_is_hashed_as_the_value_it_stands_for() -> None:
    assert hashed_values(Dependent()) == {"kind": "plain", "amount": 1.0} == hashed_values(Dependent(amount=1))
    assert hashed_values(Dependent(kind="double"))["amount"] == resolved(Dependent(kind="double"), "amount") == 2.0
    assert resolved(Dependent(kind="double", amount=5), "amount") == 5.0 and resolved(Dependent(), "kind") == "plain"
    assert setting_values(Dependent())["amount"] is None and resolved_values(Dependent())["amount"] == 1.0
    assert replace(Dependent(), kind="double").amount is None, "it is not fixed by a copy"
