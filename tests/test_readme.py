"""The README and the pages beside the code: commands are understood, paths exist, Python runs."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from shards.records import PseudoLabel
from shards.writer import write_shard
from wsss.arguments import parser
from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.recipe_files import RECIPES, find_file
from wsss.stages.train_affinity import TrainAffinity

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "shards/README.md",
    "wsss/README.md",
    "wsss/use/README.md",
    "cluster/README.md",
    "tuning/README.md",
)
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
README = TEXTS["README.md"]
BLOCKS = "\n".join(
    block for text in TEXTS.values() for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
).replace("\\\n", " ")
COMMANDS = [line.partition("  #")[0] for line in BLOCKS.splitlines() if re.search(r"(^|\s|/)wsss [a-z]", line)]


def wsss_arguments(command: str) -> list[str]:
    words = shlex.split(command)
    start = next(number for number, word in enumerate(words) if word.endswith("wsss"))
    return words[start + 1 :]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 12
    names = set(re.findall(r"defaults\.(\w+)=", BLOCKS))
    assert {"pretrained", "pad_type", "mean", "std"} <= names <= {field.name for field in fields(TrainAffinity)}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    options = parser().parse_args(wsss_arguments(command))
    recipe = getattr(options, "recipe", None)
    if recipe is not None and "toy" in str(recipe):
        load_recipe(find_file(recipe, shipped=RECIPES), options.overrides)


def paths_in(text: str) -> list[str]:
    return sorted(set(re.findall(r"(?<![\w/])(?:tuning|wsss|shards|tests|cluster|findings)/[\w./-]*\w", text)))


PATHS = sorted({path for text in (*TEXTS.values(), (ROOT / "CONTRIBUTING.md").read_text()) for path in paths_in(text)})


@pytest.mark.parametrize("path", PATHS)
def test_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", ["demo", "test", "check", "test-all"])
def test_make_targets(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_recipe_of_a_class_that_is_trained_apart(tmp_path: Path) -> None:
    blocks = re.findall(r"```\n(.*?)```", TEXTS["wsss/README.md"], flags=re.DOTALL)
    (snippet,) = [block for block in blocks if "only_classes" in block]
    path = tmp_path / "apart.toml"
    chain = (
        '[recipe]\nname = "second_classifier"\n[stages.build_shards]\nsource = "toy"\ncounts = { train = 8, val = 4 }\n'
    )
    path.write_text(chain + snippet.replace('["person"]', '["walker"]'))
    maps = load_recipe(path).instance("make_cams")
    assert {slot: instance.name for slot, instance in maps.inputs.items()} == {
        "samples": "build_shards",
        "classifier": "train_classifier",
        "second_classifier": "person_classifier",
    }


def test_the_python_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a layer made by hand in the place of the demo's."""
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    recipe = load_recipe(ROOT / "tuning/recipes/toy.toml", [f"runtime.runs={tmp_path}/runs"])
    layer = recipe.instance("make_pseudo_labels").layer
    mask = np.array([[0, 2, 2], [0, 0, 2]], np.uint8)
    write_shard(layer, "train-000000", [PseudoLabel(key="a", mask=mask, confidence=np.zeros((1, 1), np.uint8))])
    layer.complete(["train-000000"])
    asked = 'Path("tuning/recipes/toy.toml")'
    assert asked in example
    there = f'Path({str(ROOT / "tuning/recipes/toy.toml")!r}), ["runtime.runs={tmp_path}/runs"]'
    exec(compile(example.replace(asked, there), "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("a (2, 3) [")
