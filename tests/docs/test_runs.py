"""The commands of every page run, as they are written and in their order, on small drawn data."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks
from tests.docs.small_project import environment, small_project

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.extended]
AFTER_THE_DEMO = ("README.md", "tuning/README.md")
"""Pages whose commands continue `make demo`, which is not run as such: it would set up an environment."""
SECONDS = 1500


def run_blocks(page: str) -> list[Block]:
    """The blocks of a page that run: shell without a need."""
    return [block for block in blocks() if block.page == page and block.language == "sh" and not block.needs]


PAGES = sorted({block.page for block in blocks() if run_blocks(block.page)})


def script(page: str) -> str:
    """All blocks of a page as one script, in which a failure names its line on the page."""
    parts = ["set -euo pipefail"]
    if page in AFTER_THE_DEMO:
        parts.append(".venv/bin/wsss demo")
    for block in run_blocks(page):
        parts.append(f'echo "== {block.page}, line {block.line}"')
        parts.append(block.text.replace(" | head\n", " | sed -n 1,10p\n"))  # with pipefail, head ends the first command
    return "\n".join(parts)


def test_the_tutorials_are_among_the_pages_that_run() -> None:
    assert {"shards/own_data.md", "tuning/irnet_thresholds.md", "cluster/resume.md", "README.md"} <= set(PAGES)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    project = small_project(tmp_path / "p")
    done = subprocess.run(
        ["bash", "-c", script(page)],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS - 60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    (tmp_path / "output.txt").write_text(done.stdout)
    for block in run_blocks(page):
        assert f"== {page}, line {block.line}" in done.stdout


PYTHON = [block for block in blocks() if block.language == "python" and block.page != "README.md"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_python_of_a_page_runs(block: Block) -> None:
    """The start page's program reads the demo's results; tests/test_readme.py runs it."""
    exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {})
