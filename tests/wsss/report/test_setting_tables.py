from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from tests.architecture.sources import ROOT
from wsss.__main__ import main
from wsss.contract.settings import active_with, settings
from wsss.pipeline.recipe import load_recipe
from wsss.report.setting_tables import REQUIRED, kind_page, settings_of, value_cell
from wsss.report.show_recipe import instance_page, recipe_page
from wsss.report.tables import plain, records
from wsss.stages.registry import STAGES

TOY = ROOT / "tuning" / "recipes" / "toy.toml"


@settings
class Example:
    """What this stage does.

    More of it.
    """

    place: str
    """Where it lies."""
    rule: Literal["a", "b"] = "a"
    """Which rule
    is used."""
    share: Annotated[float, Field(gt=0, le=1), active_with("rule", "b")] = 0.5
    """b: a share."""
    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2)
    kernel: tuple[float, float] = (3.0, 1.0)
    counts: dict[str, int] = Field(default_factory=lambda: {"train": 4})
    limit: Annotated[int, Field(ge=1)] | None = None
    flip: bool = True


def test_what_a_setting_may_be_is_reported_in_words() -> None:
    infos = settings_of(Example)
    assert {name: info.allowed for name, info in infos.items()} == {
        "place": "text",
        "rule": "a, b",
        "share": "number above 0 and at most 1",
        "sizes": "list of: integer at least 1 (at least 1 of them)",
        "kernel": "list of 2: number",
        "counts": "table of: integer",
        "limit": "integer at least 1, or not given",
        "flip": "true or false",
    }
    assert infos["rule"].choices == ("a", "b") and infos["flip"].choices == (True, False)
    assert infos["share"].choices == ()


def test_a_kind_is_explained_without_a_recipe() -> None:
    page = kind_page("example", Example)
    assert page.heading == ("What this stage does.",)
    rows = {row["name"]: row for row in records(page.tables["settings"])}
    assert rows["rule"]["meaning"] == "Which rule is used." and rows["rule"]["default"] == "a"
    assert (rows["share"]["default"], rows["share"]["read_only_with"]) == (0.5, "rule = 'b'")
    assert (rows["place"]["default"], rows["limit"]["default"]) == (None, None)
    text = plain(page.tables["settings"])
    assert REQUIRED in text and "not given" in text and "{ train = 4 }" in text


@pytest.mark.parametrize("value", [True, 3, 0.5, "text", [1.0, 2.0], {"a": 1, "b": [2]}, ""])
def test_a_value_is_shown_as_set_takes_it(value: object, tmp_path: Path) -> None:
    from wsss.pipeline.recipe_tables import apply_override

    tables: dict[str, dict[str, object]] = {"recipe": {}}
    apply_override(tables, {}, f"recipe.x={value_cell(value).text}")
    assert tables["recipe"]["x"] == value


@pytest.mark.parametrize("kind", list(STAGES))
def test_every_setting_of_every_kind_has_a_meaning(kind: str) -> None:
    rows = records(kind_page(kind, STAGES[kind]).tables["settings"])
    assert not [row["name"] for row in rows if not row["meaning"]]
    assert not [row["name"] for row in rows if "typing" in row["allowed"] or "<" in row["allowed"]]


def test_only_what_is_not_at_its_default(tmp_path: Path) -> None:
    recipe = load_recipe(TOY, ["make_seeds.foreground_threshold=0.3", "make_seeds.background_threshold=0.04"])
    rows = {row["name"]: row for row in records(recipe_page(recipe, changed=True).tables["settings"])}
    assert rows["make_seeds.background_threshold"]["value"] == 0.04
    assert rows["make_seeds.background_threshold"]["default"] == 0.05
    assert rows["make_seeds.background_threshold"]["from"] == "--set"
    assert "make_seeds.foreground_threshold" not in rows, "given, and equal to its default"
    assert all(row["value"] != row["default"] for row in rows.values())
    every = {row["name"] for row in records(recipe_page(recipe).tables["settings"])}
    assert set(rows) < every


def test_an_instance_is_explained_with_its_own_values() -> None:
    recipe = load_recipe(TOY)
    (heading, *_), table = (
        instance_page(recipe, "make_seeds").heading,
        instance_page(recipe, "make_seeds").tables["settings"],
    )
    assert heading.startswith("make_seeds (make_seeds): ")
    rows = {row["name"]: row for row in records(table)}
    assert rows["make_seeds.crf_iterations"]["value"] == 5 and rows["make_seeds.crf_iterations"]["from"] == "toy.toml"
    assert rows["make_seeds.saliency_threshold"]["read"] is False
    assert rows["make_seeds.inputs.cams"]["value"] == "make_cams"
    assert "Number of mean-field iterations." in plain(table)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("make_seeds", "rule"),
        ("make-seeds", "rule"),
        ("runtime", "runs"),
        ("recipe", "seed"),
        ("toy make_seeds", "make_seeds.rule"),
        ("toy runtime", "runtime.runs"),
        ("toy", "make_seeds.rule"),
    ],
)
def test_show_takes_a_recipe_a_stage_or_a_group(words: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *words.split(), "--json"]) == 0
    assert name in [row["name"] for row in json.loads(capsys.readouterr().out)["settings"]]


def test_a_stage_without_a_recipe_has_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--changed"], ["--set", "make_seeds.rule=exponents"], ["make_seeds"]):
        assert main(["show", "make_seeds", *more]) == 1
        assert "make_seeds is not a recipe" in capsys.readouterr().err
