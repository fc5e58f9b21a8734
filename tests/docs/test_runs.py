"""The commands of every page run, as they are written and in their order, on small drawn data."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks
from tests.docs.small_project import environment, small_project

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.extended]
FROM_NOTHING = ("shards/own_data.md", "cluster/resume.md")
"""Pages that look at everything in the folder of runs, and so begin with an empty one."""
SECONDS = 1500


def run_blocks(page: str) -> list[Block]:
    """The blocks of a page that run: shell without a need."""
    return [block for block in blocks() if block.page == page and block.language == "sh" and not block.needs]


PAGES = sorted({block.page for block in blocks() if run_blocks(block.page)})


def script(page: str) -> str:
    """All blocks of a page as one script, in which a failure names its line on the page."""
    parts = ["set -euo pipefail"]
    for block in run_blocks(page):
        parts.append(f'echo "== {block.page}, line {block.line}"')
        parts.append(block.text.replace(" | head\n", " | sed -n 1,10p\n"))  # with pipefail, head ends the first command
    return "\n".join(parts)


def test_the_tutorials_are_among_the_pages_that_run() -> None:
    assert {"shards/own_data.md", "tuning/irnet_thresholds.md", "cluster/resume.md", "README.md"} <= set(PAGES)


def run(commands: str, project: Path) -> str:
    """What a script prints in a copy of the project."""
    done = subprocess.run(
        ["bash", "-c", commands],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS - 60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs after `make demo`, whose commands many pages continue or begin with."""
    project = small_project(tmp_path_factory.mktemp("d") / "p")
    run(".venv/bin/wsss demo", project)
    return project / "runs"


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, demo: Path, tmp_path: Path) -> None:
    project = small_project(tmp_path / "p")
    if page not in FROM_NOTHING:
        shutil.copytree(demo, project / "runs")
    printed = run(script(page), project)
    for block in run_blocks(page):
        assert f"== {page}, line {block.line}" in printed


PYTHON = [one for one in blocks() if one.language == "python" and one.page != "README.md" and not one.needs]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_python_of_a_page_runs(block: Block) -> None:
    """The start page's program reads the demo's results; tests/test_readme.py runs it."""
    exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {})
