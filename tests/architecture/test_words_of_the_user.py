"""Class names, paths and titles are shown as they are written: no code interprets them as markup or as formulas."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.sources import trees

CONSOLES = "wsss/pipeline/console.py"
PLOTS = "wsss/pictures/plots.py"
DRAWING = {"set_title", "suptitle", "set_xticks", "set_yticks", "set_xlabel", "set_ylabel", "text", "annotate"}


def calls(path: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the last part of the name of what is called."""
    for node in ast.walk(trees()[path]):
        if isinstance(node, ast.Call):
            function = node.func
            yield getattr(function, "attr", getattr(function, "id", "")), node


@pytest.mark.parametrize("path", [path for path in trees() if path != CONSOLES])
def test_every_console_reads_no_markup(path: str) -> None:
    assert not [node.lineno for name, node in calls(path) if name == "Console"], "plain_console() makes one"


@pytest.mark.parametrize("path", list(trees()))
def test_titles_and_bars_are_plain_on_any_console(path: str) -> None:
    for name, node in calls(path):
        words = {word.arg: word.value for word in node.keywords}
        if name == "Table":
            composed = [word for word in ("title", "caption") if isinstance(words.get(word), ast.JoinedStr)]
            assert not composed, f"line {node.lineno}: {composed} of a Table are Text(...)"
        if name == "TextColumn":
            assert "markup" in words, f"line {node.lineno}: TextColumn(..., markup=False)"


def test_what_matplotlib_would_read_as_mathematics_is_drawn_as_written() -> None:
    for name, node in calls(PLOTS):
        if name in DRAWING and _may_be_of_the_user(node):
            given = [ast.unparse(word.value) for word in node.keywords if word.arg is None]
            assert "_AS_WRITTEN" in given, f"line {node.lineno}: {name}(..., **_AS_WRITTEN)"


def _may_be_of_the_user(node: ast.Call) -> bool:
    """False if the whole text is a literal in the source, or is a number."""
    return not all(isinstance(part, ast.Constant | ast.List) for part in node.args)
