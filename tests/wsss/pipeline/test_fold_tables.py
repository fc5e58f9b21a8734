"""Cross-fitting in a recipe: one training per fold, and readers that are given all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.folds import Fold
from wsss.pipeline.changed_settings import resolved_recipe
from wsss.pipeline.recipe import Recipe, RecipeError, load_recipe
from wsss.pipeline.run import selected
from wsss.report.show_recipe import instance_page

TEXT = """
[recipe]
name = "small"
[runtime.train_classifier]
rank_gpus = 1
[runtime.aff]
rank_cpus = 2
[defaults]
encoder = "test_efficientnet"
[stages.build_shards]
source = "toy"
counts = { train = 20, val = 2 }
shard_size = 4
[stages.train_classifier]
folds = 3
num_epochs = 7
[stages.make_cams]
[stages.make_seeds]
[stages.aff]
kind = "train_affinity"
folds = 2
inputs = { seeds = "make_seeds" }
[stages.make_scores]
inputs = { affinity = "aff" }
[stages.make_pseudo_labels]
[stages.train_segmenter]
"""


def load(folder: Path, *overrides: str, text: str = TEXT) -> Recipe:
    path = folder / "small.toml"
    path.write_text(text)
    return load_recipe(path, overrides)


def reads(recipe: Recipe, name: str) -> dict[str, str]:
    return {slot: one.name for slot, one in recipe.instance(name).inputs.items()}


def test_one_training_per_fold(tmp_path: Path) -> None:
    recipe = load(tmp_path, "train_classifier.num_epochs=5", "train_classifier.world_size=2")
    trainings = [recipe.instance(f"train_classifier_fold{fold}") for fold in (1, 2, 3)]
    assert [(one.stage.fold, one.stage.folds, one.stage.num_epochs) for one in trainings] == [  # type: ignore[attr-defined]
        (fold, 3, 5) for fold in (1, 2, 3)
    ]
    assert [one.inputs["samples"].without for one in trainings] == [Fold(fold, 3) for fold in (1, 2, 3)]
    assert len({one.fingerprint for one in trainings}) == 3
    assert recipe.origins["train_classifier_fold2.num_epochs"] == "--set"
    assert recipe.origins["train_classifier_fold2.fold"] == "train_classifier.folds"
    given = [recipe.runtime.resources_of(recipe.instance(name)) for name in ("train_classifier_fold3", "aff_fold1")]
    assert [(one.rank_gpus, one.rank_cpus) for one in given] == [(1, 1.0), (0, 2.0)]


def test_a_training_with_folds_is_selected_and_shown_by_its_name_in_the_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    folds = ["train_classifier_fold1", "train_classifier_fold2", "train_classifier_fold3"]
    assert [one.name for one in selected(recipe, "train_classifier", "train_classifier")] == folds
    assert [one.name for one in selected(recipe, "train_classifier_fold2", "make_cams")] == [*folds[1:], "make_cams"]
    assert selected(recipe, None, "aff")[-1].name == "aff_fold2"
    assert "train_classifier_fold1" in instance_page(recipe, "train_classifier").heading[0]
    with pytest.raises(RecipeError, match="unknown instance 'classifier'"):
        selected(recipe, "classifier", None)


def test_a_map_stage_reads_the_networks_of_all_folds(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    names = [f"train_classifier_fold{fold}" for fold in (1, 2, 3)]
    slots = ("classifier", "classifier_fold2", "classifier_fold3")
    assert reads(recipe, "make_cams") == {"samples": "build_shards", **dict(zip(slots, names, strict=True))}
    assert reads(recipe, "make_scores")["affinity_fold2"] == "aff_fold2"
    other = load(tmp_path, "train_classifier.seed_shift=1")
    assert recipe.instance("make_cams").fingerprint != other.instance("make_cams").fingerprint
    assert recipe.instance("train_segmenter").inputs["pseudo_labels"].without is None


def test_without_folds_nothing_changes(tmp_path: Path) -> None:
    plain = TEXT.replace("folds = 3\n", "").replace("folds = 2\n", "")
    ones = load(tmp_path, "train_classifier.folds=1", "aff.folds=1", text=plain)
    assert [(i.name, i.fingerprint) for i in ones.instances] == [
        (i.name, i.fingerprint) for i in load(tmp_path, text=plain).instances
    ]


def test_the_resolved_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    path = tmp_path / "resolved.toml"
    path.write_text(resolved_recipe(recipe))
    again = load_recipe(path)
    assert [(i.name, i.fingerprint) for i in again.instances] == [(i.name, i.fingerprint) for i in recipe.instances]


STARTED = TEXT.replace("[stages.make_seeds]", '[stages.second]\nkind = "train_classifier"\nencoder_from = "classifier"')


def test_a_training_starts_from_the_network_of_its_own_fold(tmp_path: Path) -> None:
    text = STARTED.partition("[stages.aff]")[0]
    text = text.partition("[runtime.aff]")[0] + text.partition("[defaults]")[1] + text.partition("[defaults]")[2]
    recipe = load(tmp_path, "second.folds=3", text=text)
    assert [reads(recipe, f"second_fold{fold}")["classifier"] for fold in (1, 2, 3)] == [
        f"train_classifier_fold{fold}" for fold in (1, 2, 3)
    ]
    with pytest.raises(RecipeError, match=r"second.inputs.classifier is train_classifier, a cross-fitting of 3"):
        load(tmp_path, text=text)
    one = load(tmp_path, "second.inputs.classifier=train_classifier_fold2", text=text)
    assert reads(one, "second")["classifier"] == "train_classifier_fold2"
    with pytest.raises(RecipeError, match=r"second.folds = 2 starts from train_classifier, which is .*folds = 3"):
        load(tmp_path, "second.folds=2", text=text)
    with pytest.raises(RecipeError, match=r"have learned images .*; set train_classifier.folds = 3"):
        load(tmp_path, "second.folds=3", "train_classifier.folds=1", text=text)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train_classifier.folds = 6, but shards of the split train: 5; .*at most 5"):
        load(tmp_path, "train_classifier.folds=6")
    few = r"aff.folds = 2, but shards of the split train: 1 \(make_seeds.max_shards = 1\); .* change make_seeds.max"
    with pytest.raises(RecipeError, match=few):
        load(tmp_path, "make_seeds.max_shards=1")
    with pytest.raises(RecipeError, match=r"train_classifier.folds = 3, .* train: 2 \(build_shards.max_shards = 2\)"):
        load(tmp_path, "build_shards.max_shards=2")
    with pytest.raises(RecipeError, match=r"train_classifier.folds"):
        load(tmp_path, "train_classifier.folds=0")
    with pytest.raises(RecipeError, match=r"train_classifier.folds"):
        load(tmp_path, "train_classifier.folds=65")
    with pytest.raises(RecipeError, match=r"train_classifier.fold = 1 is not for recipes: folds = N .*remove fold"):
        load(tmp_path, "train_classifier.fold=1")
    with pytest.raises(RecipeError, match=r"makes an instance aff_fold2, but the recipe has \[stages.aff_fold2\]"):
        load(tmp_path, text=TEXT + '[stages.aff_fold2]\nkind = "train_affinity"\n')
    with pytest.raises(RecipeError, match=r"make_cams.folds: unknown setting"):
        load(tmp_path, "make_cams.folds=2")
