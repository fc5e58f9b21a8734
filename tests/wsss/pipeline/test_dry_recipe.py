"""Recipes read for a look: what is wrong is said, whether or not the data are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss.pipeline.dry_recipe import dry_recipe
from wsss.pipeline.recipe_files import RECIPES
from wsss.pipeline.recipe_tables import RecipeError

FOLDER = RECIPES / "folder.toml"


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "labels.csv").write_text("image,labels,split\na.jpg,cat,train\nb.jpg,dog,val\n")
    (tmp_path / "masks").mkdir()
    monkeypatch.setenv("IMAGES_ROOT", str(tmp_path))
    return tmp_path


def test_the_data_are_read_if_they_are_there(images: Path) -> None:
    recipe, reason = dry_recipe(FOLDER, [])
    assert (recipe.instance("build_shards").taxonomy.names, reason) == (("cat", "dog"), "")


def test_a_fault_in_settings_of_the_data_is_not_taken_for_missing_data(images: Path) -> None:
    with pytest.raises(RecipeError, match="class_list is not set; set it to the file that lists"):
        dry_recipe(FOLDER, ["build_shards.mask_folder=masks"])


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGES_ROOT", raising=False)
    with pytest.raises(RecipeError, match="environment variable IMAGES_ROOT, which is not set"):
        dry_recipe(FOLDER, [])


def test_other_faults_are_found_without_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOC_ROOT", raising=False)
    with pytest.raises(RecipeError, match="unknown setting 'flp'"):
        dry_recipe(RECIPES / "irnet_voc.toml", ["make_cams.flp=true"])


def test_what_is_known_without_the_data_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOC_ROOT", raising=False)
    recipe, reason = dry_recipe(RECIPES / "irnet_voc.toml", [])
    assert len(recipe.instance("build_shards").taxonomy.names) == 20
    assert "VOC_ROOT, which is not set" in reason
