"""The tables of published settings, held against the recipes' resolved values."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tuning.published.__main__ import main
from tuning.published.table import PublishedError, compared, names, read_table, rows
from wsss.pipeline.dry_recipe import without_data
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.recipe_files import RECIPES
from wsss.stages.evaluate import Evaluate

SYSTEMS = names()
NOT_OF_THE_SYSTEM = {"kind", "inputs", "splits", "full_list", "checkpoint_every", "batch_images"}
"""Settings of a recipe that need no row: names, images, a path, when checkpoints are written, images at a time."""


def without_its_data(name: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.toml", stand_in=without_data)


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VOC_ROOT", "ILSVRC_ROOT", "LID_PACKAGE"):
        monkeypatch.delenv(name, raising=False)


def test_every_published_system_has_a_table() -> None:
    assert set(SYSTEMS) == {"npa_lid", *(path.stem for path in RECIPES.glob("*_voc*.toml"))}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_recipe_has_the_published_values(name: str) -> None:
    found = compared(read_table(name), without_its_data(name))
    assert len(found) > 20


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_setting_of_the_recipe_has_a_row(name: str) -> None:
    table, recipe = read_table(name), without_its_data(name)
    written = tomllib.loads((RECIPES / f"{name}.toml").read_text())
    listed = {dotted for dotted, _ in rows(table)}
    for instance in recipe.instances:
        if instance.stage.kind in ("build_shards", "evaluate"):
            continue
        given = set(written["stages"].get(instance.name, {})) - NOT_OF_THE_SYSTEM
        assert not {f"{instance.name}.{setting}" for setting in given} - listed


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_published_score_is_measured(name: str) -> None:
    recipe = without_its_data(name)
    for score in read_table(name).scores:
        assert isinstance(recipe.instance(score.instance).stage, Evaluate)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_header_says_what_a_user_needs(name: str) -> None:
    header = (RECIPES / f"{name}.toml").read_text().partition("\n\n[recipe]")[0]
    for wanted in (
        f"wsss run {name} --set runtime.rank_gpus=1 --set runtime.actor_gpus=1",
        "Needs:",
        "Weights:",
        "Cost:",
        "--gpu ",
        "Published",
        "Not run here",
    ):
        assert wanted in header, wanted
    assert f"python -m tuning.published {name}" in header


def test_a_deviation_that_is_not_declared_is_refused() -> None:
    recipe = load_recipe(RECIPES / "irnet_voc.toml", ["make_scores.beta=8.0"], stand_in=without_data)
    with pytest.raises(PublishedError, match=r"make_scores\.beta is 8\.0, but its table says 10\.0 \(irn: run_sample"):
        compared(read_table("irnet_voc"), recipe)


TABLE = """
recipe = "irnet_voc"
scores = []
[sources]
irn = "jiwoon-ahn/irn"
[settings.make_scores]
"""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('beta = { published = 10.0, source = "memory" }', "source 'memory' begins with none of irn"),
        ("beta = { published = 10.0 }", "source '' begins with none of irn"),
        ('beta = { published = 10.0, ours = 8.0, source = "irn: a" }', "needs published and source; or also ours and"),
        ('beta = { published = 8.0, ours = 8.0, source = "irn: a", differs = "b" }', "ours is the published value"),
        ("beta = { ours = 8.0 }", "needs published and source"),
        ("beta = { publishd = 8.0 }", "publishd"),
    ],
)
def test_a_row_that_says_too_little_is_refused(row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "irnet_voc.toml").write_text(TABLE + row)
    with pytest.raises(PublishedError, match=message):
        read_table("irnet_voc", tmp_path)


def test_a_row_of_no_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "irnet_voc.toml").write_text(TABLE + 'betas = { published = 10.0, source = "irn: a" }')
    with pytest.raises(PublishedError, match=r"make_scores\.betas is no setting of make_scores"):
        compared(read_table("irnet_voc", tmp_path), without_its_data("irnet_voc"))


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dsrg_voc", "--differs"]) == 0
    printed = capsys.readouterr().out
    assert "| train_segmenter.num_epochs | 8,000 steps | 15 | dsrg: solver-s.prototxt |" in printed
    assert "growing_foreground_threshold" not in printed, "as published"
    assert main(["dsrg_voc"]) == 0
    assert "| train_segmenter.growing_foreground_threshold | 0.85 | 0.85 |" in capsys.readouterr().out


def test_a_name_without_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy"]) == 1
    assert "no table of published settings for 'toy'; there are affinitynet_voc, " in capsys.readouterr().err
