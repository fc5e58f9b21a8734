"""Instances that are part of a recipe only if another instance reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss.pipeline.recipe import Recipe, RecipeError, load_recipe

TEXT = """
[recipe]
name = "small"
only_if_read = ["second"]
[stages.build_shards]
source = "toy"
counts = { train = 5, val = 2 }
[stages.train_classifier]
dropped_classes = ["walker"]
[stages.second]
kind = "train_classifier"
only_classes = ["walker"]
[stages.make_cams]
inputs = { classifier = "train_classifier" }
[stages.make_seeds]
"""
WITH = ("make_cams.second_classifier=true",)


def load(folder: Path, *overrides: str, text: str = TEXT) -> Recipe:
    path = folder / "small.toml"
    path.write_text(text)
    return load_recipe(path, overrides)


def names(recipe: Recipe) -> list[str]:
    return [instance.name for instance in recipe.instances]


def test_it_is_left_out_unless_another_instance_reads_it(tmp_path: Path) -> None:
    text = TEXT.replace(
        '{ classifier = "train_classifier" }', '{ classifier = "train_classifier", second_classifier = "second" }'
    )
    without, with_it = load(tmp_path), load(tmp_path, *WITH, text=text)
    assert names(without) == ["build_shards", "train_classifier", "make_cams", "make_seeds"]
    assert names(with_it) == ["build_shards", "train_classifier", "second", "make_cams", "make_seeds"]
    always = load(tmp_path, text=TEXT.replace('"second"]', "]"))
    assert [i.fingerprint for i in always.instances if i.name != "second"] == [i.fingerprint for i in without.instances]
    assert without.fingerprint != always.fingerprint
    assert load(tmp_path, "second.num_epochs=9", *WITH, text=text).instance("second").stage.num_epochs == 9  # type: ignore[attr-defined]


def test_what_only_such_an_instance_reads_is_left_out_too(tmp_path: Path) -> None:
    text = TEXT.replace('["second"]', '["make_cams", "make_seeds", "train_classifier", "second"]')
    assert names(load(tmp_path, text=text)) == ["build_shards"]


def test_the_trainings_of_all_folds_go_by_the_name_of_their_table(tmp_path: Path) -> None:
    text = TEXT.replace(
        '{ classifier = "train_classifier" }', '{ classifier = "train_classifier", second_classifier = "second" }'
    )
    folds = ("second.folds=2", "train_classifier.folds=2", "build_shards.shard_size=2")
    assert "second_fold1" not in names(load(tmp_path, *folds))
    assert {"second_fold1", "second_fold2"} < set(names(load(tmp_path, *folds, *WITH, text=text)))


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe.only_if_read: .*secnd.*did you mean second"):
        load(tmp_path, text=TEXT.replace('["second"]', '["secnd"]'))
    with pytest.raises(RecipeError, match="secnd"):
        load(tmp_path, "recipe.only_if_read=['secnd']")
