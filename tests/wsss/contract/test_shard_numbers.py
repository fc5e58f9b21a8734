"""What `max_shards` leaves of a layer must be enough for those that read it."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from wsss.contract.shard_numbers import most_shards
from wsss.pipeline.recipe import Recipe, RecipeError, load_recipe

TEXT = """
[recipe]
name = "small"
[defaults]
encoder = "test_efficientnet"
[stages.build_shards]
source = "toy"
counts = { train = 20, val = 4 }
shard_size = 2
[stages.train_classifier]
[stages.make_cams]
[stages.make_pseudo_labels]
background_threshold = 0.5
inputs = { scores = "make_cams" }
[stages.other_labels]
kind = "make_pseudo_labels"
background_threshold = 0.3
inputs = { scores = "make_cams" }
[stages.make_agreed_labels]
inputs = { first = "make_pseudo_labels", second = "other_labels" }
image_agreement = true
[stages.keep_reliable_labels]
inputs = { labels = "other_labels", agreement = "make_agreed_labels" }
"""


def load(folder: Path, *overrides: str) -> Recipe:
    path = folder / "small.toml"
    path.write_text(TEXT)
    return load_recipe(path, overrides)


def test_the_smallest_limit_of_the_layers_before_it(tmp_path: Path) -> None:
    settings = ("make_cams.max_shards=3", "make_pseudo_labels.max_shards=2", "keep_reliable_labels.max_shards=2")
    recipe = load(tmp_path, *settings)
    found = {one.name: most_shards(one) for one in recipe.instances}
    assert found["build_shards"] == found["train_classifier"] == (inf, "")
    assert found["make_cams"] == found["other_labels"] == (3, "make_cams")
    assert found["make_pseudo_labels"] == found["make_agreed_labels"] == (2, "make_pseudo_labels")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["make_agreed_labels.max_shards=1"],
            "keep_reliable_labels makes all shards, but its input agreement, make_agr",
        ),
        (
            ["other_labels.max_shards=3"],
            r"make_agreed_labels makes all shards, .* second, other_labels, has 3 \(other_",
        ),
        (
            ["other_labels.max_shards=3", "make_pseudo_labels.max_shards=4"],
            "makes 4 shards of each split, but .* has 3",
        ),
    ],
)
def test_a_layer_with_fewer_shards_than_its_reader_makes_is_refused(
    settings: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, *settings)


def test_equal_limits_pass(tmp_path: Path) -> None:
    load(tmp_path, "make_pseudo_labels.max_shards=1", "other_labels.max_shards=1")
    load(tmp_path, "build_shards.max_shards=1", "make_cams.max_shards=4")
