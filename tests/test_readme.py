"""The README's commands are commands, and its paths exist."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from wsss.arguments import parser
from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.recipe_files import RECIPES, find_file
from wsss.stages.train_affinity import TrainAffinity

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line.partition("  #")[0] for line in BLOCKS.splitlines() if re.search(r"(^|\s|/)wsss [a-z]", line)]


def wsss_arguments(command: str) -> list[str]:
    words = shlex.split(command)
    start = next(number for number, word in enumerate(words) if word.endswith("wsss"))
    return words[start + 1 :]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 6
    names = set(re.findall(r"defaults\.(\w+)=", BLOCKS))
    assert {"pretrained", "pad_type", "mean", "std"} == names <= {field.name for field in fields(TrainAffinity)}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    options = parser().parse_args(wsss_arguments(command))
    recipe = getattr(options, "recipe", None)
    if recipe is not None and "toy" in str(recipe):
        load_recipe(find_file(recipe, shipped=RECIPES), options.overrides)


def paths_in(text: str) -> list[str]:
    return sorted(set(re.findall(r"(?<![\w/])(?:tuning|wsss|shards|tests|cluster|findings)/[\w./-]*\w", text)))


PATHS = sorted({*paths_in(README), *paths_in((ROOT / "CONTRIBUTING.md").read_text())})


@pytest.mark.parametrize("path", PATHS)
def test_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_recipe_of_a_class_that_is_trained_apart(tmp_path: Path) -> None:
    (snippet,) = [block for block in re.findall(r"```\n(.*?)```", README, flags=re.DOTALL) if "only_classes" in block]
    path = tmp_path / "apart.toml"
    chain = '[recipe]\nname = "apart"\n[stages.build_shards]\nsource = "toy"\ncounts = { train = 8, val = 4 }\n'
    path.write_text(chain + snippet.replace('["person"]', '["walker"]'))
    maps = load_recipe(path).instance("make_cams")
    assert {slot: instance.name for slot, instance in maps.inputs.items()} == {
        "samples": "build_shards",
        "classifier": "train_classifier",
        "apart": "person_classifier",
    }
