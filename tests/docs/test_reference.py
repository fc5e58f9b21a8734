"""Reference pages: every command and every setting is there, and cells of tables stay cells."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.util import find_spec

import pytest

from docs.reference import PYTHON_PAGES, _cell, commands_page, leaf_commands, python_page, settings_page
from tests.architecture.test_command_line import FROZEN
from wsss.arguments import parser
from wsss.stages.registry import STAGES


def test_every_command_has_its_help_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = commands_page()
    assert [name.removeprefix("wsss ") for name in re.findall(r"^## (.+)$", page, flags=re.MULTILINE)] == [
        name.removeprefix("wsss ") for name, _ in leaf_commands(parser())
    ]
    assert {name.removeprefix("wsss ") for name, _ in leaf_commands(parser())} == set(FROZEN)
    assert max(len(line) for line in page.splitlines() if not line.startswith("What ")) <= 80


def test_every_setting_has_a_row_with_its_anchor_and_four_cells() -> None:
    page = settings_page()
    for kind in STAGES:
        for setting in fields(STAGES[kind]):
            assert f"`{setting.name}`{{ #{kind}.{setting.name} }}" in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)


def test_text_in_a_cell_is_shown_as_it_is_written() -> None:
    assert _cell("a_b [x] *y* <z> | `a_b|c`") == "a\\_b \\[x] \\*y\\* &lt;z> \\| `a_b\\|c`"


@pytest.mark.parametrize("package", PYTHON_PAGES)
def test_the_modules_of_a_python_page_exist(package: str) -> None:
    modules = re.findall(r"^::: (\S+)$", python_page(package), flags=re.MULTILINE)
    assert modules and all(find_spec(module) for module in modules)
