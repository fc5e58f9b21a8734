"""Sizes, names and forbidden code: the rules that ruff cannot check.

pyproject.toml has the rules that ruff can check (types, docstrings of modules, pickle, shells); test_ruff.py runs
them. This file has those for which ruff 0.17 has no rule:

- lines of a file and of a function (PLR0915 counts statements), words that must not name a file;
- `shell=` or `allow_pickle=` with a value that is not the literal False (S602 and S604 ignore a variable, and no
  rule checks numpy.load), and addresses that webdataset would run in a shell;
- paths of one machine (S108 knows only /tmp, /var/tmp and /dev/shm), also in recipes;
- consistency of stages, their settings and the registry.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import get_args, get_type_hints

import pytest

from shards.records import RECORD_KINDS
from tests.architecture.sources import ROOT, trees
from wsss.contract.settings import setting_docs
from wsss.ops.grad_cam import METHODS
from wsss.ops.tta import Merge
from wsss.stages.classifier.cam_settings import GRADIENT_METHODS
from wsss.stages.registry import STAGES, producers
from wsss.stages.segmenter.views import SegmenterViews
from wsss.stages.train_segmenter import OBJECTIVES, TrainSegmenter

MAX_FILE, MAX_FUNCTION = 350, 50
FORBIDDEN_NAMES = {"utils", "util", "misc", "common", "helpers", "helper", "core"}
MACHINE_PATH = re.compile(r"(?<![\w.<{}$])/(home|root|Users|work|mnt|data|scratch|tmp)/")

each_file = pytest.mark.parametrize("path", list(trees()))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@each_file
def test_sizes(path: str) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= MAX_FILE
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(trees()[path]) if f.end_lineno is not None}
    assert not {name: lines for name, lines in long.items() if lines > MAX_FUNCTION}


@each_file
def test_names(path: str) -> None:
    assert not FORBIDDEN_NAMES & set(path.removesuffix(".py").split("/"))


@each_file
def test_nothing_runs_a_shell_or_unpickles_arrays(path: str) -> None:
    for node in ast.walk(trees()[path]):
        if isinstance(node, ast.keyword):
            value = getattr(node.value, "value", None)
            assert not (node.arg in ("shell", "allow_pickle") and value is not False), f"{path}:{node.value.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert "allow_pickle" in {keyword.arg for keyword in node.keywords}, "say allow_pickle=False"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert "pipe:" not in node.value, "webdataset would run it in a shell"


@each_file
def test_no_path_of_one_machine(path: str) -> None:
    found = MACHINE_PATH.search((ROOT / path).read_text())
    assert found is None, f"{path} holds {found and found.group()}"


@pytest.mark.parametrize("path", sorted((ROOT / "tuning").rglob("*.toml")), ids=lambda path: path.name)
def test_no_path_of_one_machine_in_recipes(path: object) -> None:
    assert MACHINE_PATH.search(path.read_text()) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", list(STAGES))
def test_every_setting_is_documented(kind: str) -> None:
    undocumented = [name for name, text in setting_docs(STAGES[kind]).items() if not text]
    assert not undocumented


def test_kinds_and_names_of_stages_agree() -> None:
    for kind, stage in STAGES.items():
        assert stage.kind == kind
        assert stage.__name__ == "".join(word.capitalize() for word in kind.split("_"))
        assert stage.__module__ == f"wsss.stages.{kind}"
        assert getattr(stage, "record_kind", "sample") in RECORD_KINDS


@pytest.mark.parametrize("kind", list(STAGES))
def test_every_input_of_a_stage_can_be_made_by_some_stage(kind: str) -> None:
    for name, slot in STAGES[kind].slots.items():
        assert producers(slot), f"nothing makes {kind}.inputs.{name}: {slot}"


def test_choices_that_are_written_twice_agree() -> None:
    """Settings are read without torch, so the choices of an operation are repeated in the setting."""
    assert tuple(METHODS) == GRADIENT_METHODS
    assert get_args(get_type_hints(SegmenterViews)["merge"]) == get_args(Merge)
    choices = get_args(get_args(get_type_hints(TrainSegmenter, include_extras=True)["objective"])[0])
    assert choices == tuple(OBJECTIVES)


@pytest.mark.parametrize("path", trees())
def test_no_part_of_a_message_misses_its_f(path: str) -> None:
    """Of strings that stand side by side, each with a {name} in it needs the prefix."""
    placeholder = re.compile(r"\{[a-z_]+(\.[a-z_]+)+\}")
    constants = [
        part.value
        for node in ast.walk(trees()[path])
        if isinstance(node, ast.JoinedStr)
        for part in node.values
        if isinstance(part, ast.Constant)
    ]
    assert [text for text in constants if placeholder.search(str(text))] == []
