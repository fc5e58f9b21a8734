"""Benchmarks run rarely and need packages that the tests do not need, so their imports of this project are checked."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.architecture.sources import FOLDERS, ROOT

SCRIPTS = sorted((ROOT / "tests" / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_a_benchmark_imports_of_ours_is_there(script: Path) -> None:
    checked = 0
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in (*FOLDERS, "tests"):
            if node.module.startswith("tests.benchmarks"):
                continue  # that file is checked as well, and may import rivals
            module = import_module(node.module)
            absent = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            absent = [name for name in absent if not find_spec(f"{node.module}.{name}")]
            assert not absent, f"{node.module} has no {absent}"
            checked += 1
    assert checked
