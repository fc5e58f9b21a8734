"""The README and the pages beside the code: paths exist, recipes and Python run. Commands: tests/docs."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from shards.records import PseudoLabel
from shards.writer import write_shard
from tests.docs.pages import blocks, pages
from tests.docs.test_commands import arguments_of
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


def test_the_arguments_for_a_weight_file_are_settings() -> None:
    names = {name for page in PAGES for name in re.findall(r"defaults\.(\w+)=", TEXTS[page])}
    assert {"pretrained", "pad_type", "mean", "std"} <= names <= {field.name for field in fields(TrainAffinity)}


OF_TOY = [
    line
    for block in blocks()
    for line in block.commands
    if arguments_of(line)[1:2] == ["toy"] and hasattr(parser().parse_args(arguments_of(line)), "recipe")
]


@pytest.mark.parametrize("line", OF_TOY)
def test_settings_of_toy_are_allowed(line: str) -> None:
    options = parser().parse_args(arguments_of(line))
    load_recipe(find_file(options.recipe, shipped=RECIPES), getattr(options, "overrides", None) or [])


def paths_in(text: str) -> list[str]:
    return sorted(set(re.findall(r"(?<![\w/])(?:tuning|wsss|shards|tests|cluster|findings)/[\w./-]*\w", text)))


PATHS = sorted({path for page, text in pages().items() if page != "CHANGELOG.md" for path in paths_in(text)})


@pytest.mark.parametrize("path", PATHS)
def test_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", ["demo", "docs", "test", "check", "test-all"])
def test_make_targets(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_recipe_of_a_class_that_is_trained_apart(tmp_path: Path) -> None:
    (snippet,) = [one.text for one in blocks() if one.page == "wsss/README.md" and "only_classes" in one.text]
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
