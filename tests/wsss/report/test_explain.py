from __future__ import annotations

from pathlib import Path

import pytest

from wsss.__main__ import main
from wsss.arguments import parser
from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.recipe_files import RECIPES
from wsss.report.explain import _near

KEYS = [f"{split}_{number:05d}" for split in ("train", "val") for number in range(12)]


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("val_9999", ["val_00011", "val_00010", "val_00009"]),
        ("val_3", ["val_00003", "val_00002", "val_00004"]),
        ("train_00012", ["train_00011", "train_00010", "train_00009"]),
        ("vla_00004", ["val_00004"]),
        ("???", ["train_00000", "train_00001", "train_00002"]),
    ],
)
def test_keys_of_the_same_split_with_the_nearest_number_are_suggested(key: str, near: list[str]) -> None:
    assert _near(key, KEYS)[: len(near)] == near


def test_a_picture_of_another_format_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", "toy", "val_00001", "--runs", str(tmp_path), "--output", str(tmp_path / "one.gif")]
    assert main(words) == 1
    assert "one.gif: name a file that ends in .png, which is what is written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["results toy", "show toy --changed", "explain toy val_00001"])
def test_runs_is_a_setting_of_the_recipe(words: str) -> None:
    options = parser().parse_args([*words.split(), "--set", "recipe.seed=3", "--runs", 'my "runs"'])
    assert load_recipe(RECIPES / "toy.toml", options.overrides).runtime.runs == Path('my "runs"')


def test_results_of_a_folder_that_is_not_there_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "toy", "--runs", str(tmp_path / "none")]) == 0
    assert f"there is no folder of runs {tmp_path / 'none'}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
