"""The small twins of the published systems' recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuning.twins import SYSTEMS, main, name_of_full, text_of
from wsss.contract.fit import Fit
from wsss.contract.settings import resolved
from wsss.pipeline.dry_recipe import without_data
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.recipe_files import RECIPES
from wsss.stages.segmenter.boxed_training import BoxedTraining
from wsss.stages.segmenter.mask_supervision import MixedBatches

IMAGES, MASKED = 448, 62


def recipe_of(name: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.toml", stand_in=without_data)


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOC_ROOT", raising=False)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_shipped_file_follows_the_rule(system: str) -> None:
    written = (RECIPES / f"voc_animals_{system}.toml").read_text()
    assert written == text_of(system), "run python -m tuning.twins"


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_twin_has_the_chain_of_the_full_recipe(system: str) -> None:
    twin, full = recipe_of(f"voc_animals_{system}"), recipe_of(name_of_full(system))
    assert twin.settings.supervision == full.settings.supervision

    def chain(recipe: Recipe) -> list[tuple[str, str, dict[str, str]]]:
        reads = [{slot: up.name for slot, up in instance.inputs.items()} for instance in recipe.instances]
        return [(i.name, i.stage.kind, read) for i, read in zip(recipe.instances, reads, strict=True)]

    assert chain(twin) == chain(full)
    for one, other in zip(twin.instances, full.instances, strict=True):
        # What makes the system; a head may need another name of a level, and only stride and sizes may differ.
        for setting in (
            "network",
            "head",
            "objective",
            "self_correction",
            "loss",
            "rule",
            "method",
            "background_exponent",
        ):
            if hasattr(one.stage, setting):
                assert resolved(one.stage, setting) == resolved(other.stage, setting), (one.name, setting)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_training_is_short_and_segmenters_have_about_equal_numbers_of_steps(system: str) -> None:
    for instance in recipe_of(f"voc_animals_{system}").instances:
        stage = instance.stage
        if not isinstance(stage, MixedBatches | BoxedTraining):
            continue
        images, per_batch = IMAGES, stage.batch_size
        if isinstance(stage, BoxedTraining):
            images = round(MASKED * stage.full_share / 0.138)
        elif stage.supervision() == "semi":
            images, per_batch = IMAGES - MASKED, stage.batch_size - stage.full_per_batch
        assert 190 <= stage.num_epochs * images / per_batch <= 260, instance.name
        assert stage.crop_size == 257 and stage.max_shards == 7


def test_all_twins_read_the_same_images_with_the_same_encoder() -> None:
    recipes = [recipe_of(f"voc_animals_{system}") for system in SYSTEMS]
    assert len({recipe.instances[0].fingerprint for recipe in recipes}) == 1
    trainings = [i.stage for recipe in recipes for i in recipe.instances if isinstance(i.stage, Fit)]
    assert {stage.encoder for stage in trainings} == {"mobilenetv2_100"}  # type: ignore[attr-defined]


def test_the_files_are_written_where_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for system in SYSTEMS:
        full = f"{name_of_full(system)}.toml"
        (tmp_path / full).write_text((RECIPES / full).read_text())
    assert main([], recipes=tmp_path) == 0
    assert (tmp_path / "voc_animals_sec.toml").read_text() == text_of("sec")
    assert capsys.readouterr().out.count("written") == len(SYSTEMS)
    assert main([], recipes=tmp_path) == 0 and not capsys.readouterr().out
