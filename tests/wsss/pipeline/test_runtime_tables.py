"""Resources of single stages: `[runtime.KIND]` and `[runtime.INSTANCE]`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.chain import TINY, tiny
from wsss.contract.resources import Resources
from wsss.pipeline.recipe import Recipe, RecipeError, load_recipe

GENERAL = ("runtime.actor_gpus=1", "runtime.rank_gpus=1", "runtime.num_actors=6")


def resources(recipe: Recipe, name: str) -> Resources:
    return recipe.runtime.resources_of(recipe.instance(name))


def test_only_stages_that_can_use_a_gpu_hold_one(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, *GENERAL)
    held = {i.name: recipe.runtime.resources_of(i).actor_gpus for i in recipe.instances}
    assert held["build_shards"] == held["evaluate"] == held["submit"] == 0
    assert held["make_cams"] == held["predict"] == 1
    assert resources(recipe, "train_classifier").rank_gpus == 1


def test_a_kind_and_an_instance_have_their_own(tmp_path: Path) -> None:
    given = (
        "runtime.make_seeds.actor_gpus=0",
        "runtime.make_seeds.actor_cpus=2",
        "runtime.evaluate.num_actors=3",
        "runtime.evaluate_cam.num_actors=4",
        "runtime.evaluate_cam.actor_cpus=0.5",
        "runtime.train_segmenter.rank_cpus=4",
        "runtime.train_segmenter.rank_gpus=0",
    )
    recipe = tiny(tmp_path, *GENERAL, *given)
    general = Resources(num_actors=6, actor_cpus=1.0, actor_gpus=1.0, rank_cpus=1.0, rank_gpus=1)
    assert resources(recipe, "make_cams") == general
    seeds = resources(recipe, "make_seeds")
    assert (seeds.actor_gpus, seeds.actor_cpus, seeds.num_actors) == (0, 2, 6)
    # An instance's own table has priority; what it does not give is as for its kind.
    assert (resources(recipe, "evaluate_seeds").num_actors, resources(recipe, "evaluate_seeds").actor_cpus) == (3, 1)
    assert (resources(recipe, "evaluate_cam").num_actors, resources(recipe, "evaluate_cam").actor_cpus) == (4, 0.5)
    trained = resources(recipe, "train_segmenter")
    assert (trained.rank_cpus, trained.rank_gpus) == (4, 0) and resources(recipe, "train_affinity").rank_gpus == 1
    named = {
        ("evaluate_cam", "actor_cpus"): "runtime.evaluate_cam.actor_cpus",
        ("evaluate_cam", "actor_gpus"): "runtime.actor_gpus",
        ("evaluate_seeds", "num_actors"): "runtime.evaluate.num_actors",
    }
    for (name, setting), dotted in named.items():
        assert recipe.runtime.name_of(setting, recipe.instance(name)) == dotted
    assert [i.fingerprint for i in recipe.instances] == [i.fingerprint for i in tiny(tmp_path).instances]


def test_tables_of_a_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        TINY.read_text() + "\n[runtime]\nthreads = 2\n[runtime.make_cams]\nnum_actors = 2\nactor_gpus = 0.5\n"
    )
    recipe = load_recipe(path)
    assert recipe.runtime.threads == 2 and resources(recipe, "make_cams").actor_gpus == 0.5
    assert resources(recipe, "predict").actor_gpus == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "runtime.make_cam.num_actors=2",
            r"\[runtime.make_cam\]: unknown kind or instance 'make_cam'; did you mean make_cams",
        ),
        (
            "runtime.train_ancillary.rank_gpus=1",
            r"\[runtime.train_ancillary\]: no instance of this recipe is of that kind",
        ),
        ("runtime.make_cams.actors=2", r"runtime.make_cams.actors: unknown setting 'actors'; did you mean num_actors"),
        (
            "runtime.make_cams.rank_gpus=1",
            r"runtime.make_cams.rank_gpus: make_cams processes shards, with actors; it has "
            r"num_actors, actor_cpus, actor_gpus",
        ),
        (
            "runtime.train_segmenter.actor_gpus=1",
            r"runtime.train_segmenter.actor_gpus: train_segmenter trains, with one "
            r"rank per process of world_size; it has rank_cpus, rank_gpus",
        ),
        ("runtime.train_segmenter.rank_gpus=2", r"runtime.train_segmenter.rank_gpus: it must be at most 1 \(got 2\)"),
        (
            "runtime.build_shards.actor_gpus=1",
            r"runtime.build_shards.actor_gpus = 1: build_shards computes without GPUs",
        ),
        (
            "runtime.evaluate_cam.actor_gpus=0.5",
            r"runtime.evaluate_cam.actor_gpus = 0.5: evaluate_cam computes without",
        ),
        ("runtime.make_cams.actor_gpus=1.5", r"runtime.make_cams.actor_gpus: above 1 it must be a whole number"),
        ("runtime.make_cams.actor_cpus=0", r"runtime.make_cams.actor_cpus: it must be more than 0"),
        ("runtime.actor_cpus=2.5", r"runtime.actor_cpus: above 1 it must be a whole number"),
        ("runtime.stages.make_cams.num_actors=2", r"runtime.stages is no setting; write tables \[runtime.KIND\]"),
        ("runtime.num_actor=2", r"runtime.num_actor: unknown setting 'num_actor'; did you mean num_actors"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny(tmp_path, override)
