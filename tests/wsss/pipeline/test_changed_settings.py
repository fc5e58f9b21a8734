"""The settings that are recorded of a recipe."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline.chain import tiny
from wsss.pipeline.changed_settings import changed_settings, lineage, resolved_recipe, resolved_settings
from wsss.pipeline.recipe import load_recipe

CHANGED = ["make_pseudo_labels.background_threshold=0.31", 'evaluate.title="a \\"b\\" \u00e4"']


def test_the_resolved_recipe_is_a_recipe_of_the_same_pipeline(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "runs", *CHANGED)
    path = tmp_path / "resolved.toml"
    path.write_text(resolved_recipe(recipe))
    again = load_recipe(path, [f"runtime.runs={tmp_path / 'runs'}"])
    assert again.fingerprint == recipe.fingerprint and changed_settings(again) == {
        name: value for name, value in changed_settings(recipe).items() if name.startswith("runtime.")
    }
    assert [one.fingerprint for one in again.instances] == [one.fingerprint for one in recipe.instances]
    assert resolved_settings(again) == resolved_settings(recipe)


def test_what_changed_is_told_for_the_whole_recipe_and_for_what_is_behind_an_instance(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "runs", *CHANGED)
    everything = changed_settings(recipe)
    assert everything == {"make_pseudo_labels.background_threshold": 0.31, "evaluate.title": 'a "b" \u00e4'}
    assert changed_settings(recipe, recipe.instance("submit")) == {"make_pseudo_labels.background_threshold": 0.31}
    assert changed_settings(recipe, recipe.instance("make_scores")) == {}
    behind = lineage(recipe.instance("make_cams"))
    assert behind == {
        name: recipe.instance(name).fingerprint for name in ("make_cams", "train_classifier", "build_shards")
    }
