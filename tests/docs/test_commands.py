"""What the pages say exists: commands are understood; recipes, settings, paths, programs and messages are there."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from docs.reference import leaf_commands
from tests.architecture.sources import ROOT, trees
from tests.docs.pages import NEEDS, PAGES_THAT_NEED, Block, blocks, blocks_in, pages
from wsss.arguments import parser
from wsss.contract.runtime import RuntimeSettings
from wsss.pipeline.recipe import RecipeSettings
from wsss.pipeline.recipe_files import RECIPES, SWEEPS, find_file
from wsss.stages.registry import STAGES

LANGUAGES = {"", "sh", "text", "toml", "yaml", "python"}
OWN_FILES = re.compile(r"my_photographs/|RECIPE|FOLDER|^MODEL|\.\.\.|…")
"""Recipes of the reader."""


def arguments_of(line: str) -> list[str]:
    """The arguments of the last `wsss COMMAND` in a line of shell; empty if there is none."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a line of a longer quotation, such as a program in Python
        return []
    starts = [
        number
        for number, (word, after) in enumerate(pairwise(words), start=1)
        if re.fullmatch(r"(.*/)?wsss", word) and re.fullmatch(r"[a-z][a-z-]*", after)
    ]
    words = words[starts[-1] :] if starts else []
    ends = [number for number, word in enumerate(words) if word in ("|", ">", "&&", ";", "2>&1")]
    return words[: min(ends, default=len(words))]


COMMANDS = [
    (block, line)
    for block in blocks()
    if block.language in ("", "sh") and block.page != "CHANGELOG.md"
    for line in block.commands
    if not re.match(r"make_|train_", line) and arguments_of(line)
]
"""Lines that call wsss; not what it prints of a stage."""


def test_blocks_are_found_with_their_lines() -> None:
    text = 'A\n\n```sh title="needs a cluster: four nodes"\nwsss run \\\n  toy  # a comment\n```\n```text\nx\n```\n'
    first, second = blocks_in(text, page="p.md")
    assert (first.line, first.language, first.needs) == (3, "sh", "needs a cluster")
    assert [" ".join(line.split()) for line in first.commands] == ["wsss run toy"]
    assert (second.language, second.needs, second.text) == ("text", "", "x\n")


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block.page}:{block.line}")
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in LANGUAGES
    assert block.language or block.page in PAGES_THAT_NEED, "write ```sh, ```text, ```toml or ```python"
    assert not block.needs or block.needs in NEEDS, f"the title {block.title!r} begins with none of {sorted(NEEDS)}"


def test_there_are_commands_of_many_kinds() -> None:
    assert len(COMMANDS) > 40
    assert len({arguments_of(line)[0] for _, line in COMMANDS}) >= 12


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value.page)
def test_command_is_understood(block: Block, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options = parser().parse_args(arguments_of(line))
    for name, shipped in (("recipe", RECIPES), ("sweep", SWEEPS)):
        given = getattr(options, name, None)
        if isinstance(given, Path) and not OWN_FILES.search(str(given)) and str(given) not in stages_and_commands():
            find_file(given, shipped=shipped)


def stages_and_commands() -> set[str]:
    """What `wsss show` takes in place of a recipe."""
    return {*STAGES, *(kind.replace("_", "-") for kind in STAGES), "runtime", "recipe"}


def settings_named() -> list[tuple[str, str]]:
    """(page, dotted setting) of everything written as `--set NAME=`, or in backquotes as `kind.name`."""
    found = set()
    for page, text in pages().items():
        if page != "CHANGELOG.md":
            found |= {(page, name) for name in re.findall(r"--set '?([\w*]+\.\w+)=", text)}
            found |= {(page, name) for name in re.findall(rf"`((?:{'|'.join(STAGES)})\.\w+)`", text)}
    return sorted(found)


@pytest.mark.parametrize(("page", "name"), settings_named())
def test_setting_exists(page: str, name: str) -> None:
    group, setting = name.split(".")
    known = {kind: {field.name for field in fields(STAGES[kind])} for kind in STAGES}
    candidates = [kind for kind in known if group == kind or re.fullmatch(group.replace("*", ".*"), kind)]
    if group in ("defaults", "runtime", "recipe") or not candidates:
        return _exists_somewhere(group, setting)
    assert any(setting in known[kind] for kind in candidates), f"{page}: no setting {name}"


def _exists_somewhere(group: str, setting: str) -> None:
    """A setting of all stages, of the runtime, or of an instance that a shipped recipe names."""
    if group in ("runtime", "recipe"):
        owner = RuntimeSettings if group == "runtime" else RecipeSettings
        assert setting in {field.name for field in fields(owner)} | set(STAGES)
        return
    assert setting in {field.name for kind in STAGES for field in fields(STAGES[kind])}
    if group != "defaults":
        recipes = "".join(path.read_text() for path in RECIPES.glob("*.toml"))
        assert f"[stages.{group}]" in recipes


def test_every_command_of_the_help_is_on_a_page() -> None:
    text = "\n".join(pages().values())
    missing = [name for name, _ in leaf_commands(parser()) if name.split()[1].replace("-", "_") not in STAGES]
    assert [name for name in missing if not re.search(rf"{re.escape(name)}\b", text)] == []


MODULE = re.compile(r"python -m ((?:tests|tuning|cluster)[\w.]*\w)")
PROGRAMS = sorted({name for text in pages().values() for name in MODULE.findall(text)})


@pytest.mark.parametrize("module", PROGRAMS)
def test_program_exists(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or path.is_dir()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    code = [span for text in pages().values() for span in re.findall(r"`(make [^`]*)`", text)]
    code += [line for block in blocks() if block.language in ("", "sh") for line in block.commands]
    named = {found for line in code for found in re.findall(r"^make ([a-z-]+)", line)}
    assert {"demo", "test", "docs", "lint"} <= named
    assert not [name for name in named if not re.search(rf"^{name}:", makefile, flags=re.MULTILINE)]


def quoted_messages() -> list[str]:
    """First cells of the tables of troubles whose head says `message`."""
    found, inside = [], False
    for line in pages()["docs/troubles.md"].splitlines():
        inside = line.startswith("| message") or (inside and line.startswith("|"))
        if inside and (cell := re.match(r"\| `([^`]+)` \|", line)):
            found.append(cell[1])
    return found


def test_the_code_still_says_the_messages() -> None:
    source = "\n".join(re.sub(r'"\s*\n\s*f?"', "", (ROOT / path).read_text()) for path in trees())
    messages = quoted_messages()
    assert len(messages) > 20
    assert [message for message in messages if message not in source] == []
