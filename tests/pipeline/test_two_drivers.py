"""Two commands on one instance at once: the second says for whom it waits, and nothing is done twice or lost."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.driver import run, start, wait_for
from tests.cluster.tiny import SHARDS

pytestmark = pytest.mark.slow

STAGE = {"wait_in": SHARDS[2]}


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def line_of(process: Any, words: str) -> str:
    """Read what a driver prints up to the line with these words."""
    for line in process.stdout:
        if words in line:
            return str(line)
    raise AssertionError(f"it ended without {words!r}")


def two(folder: Path) -> tuple[Any, Any]:
    """A driver in the middle of its work, and one that waits for it."""
    first = start(folder, "map", stage=STAGE)
    wait_for(folder / "waits", first)
    second = start(folder, "map", stage=STAGE)
    line = line_of(second, "waiting for another process")
    reported = (
        rf"tiny: waiting for another process that is running it: process {first.pid} on \S+, since \d{{4}}-\d\d-\d\d \d"
    )
    assert re.match(reported, line), line
    return first, second


def test_second_waits_and_finds_it_done(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "go").touch()
    assert run(tmp_path / "whole", "map", stage=STAGE)[0] == 0
    folder = tmp_path / "both"
    first, second = two(folder)
    (folder / "go").touch()
    printed = first.communicate(timeout=120)[0]
    assert first.returncode == 0, printed
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    printed = second.communicate(timeout=120)[0]
    assert second.returncode == 0 and "kept   tiny" in printed, printed
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")} == made
    assert tars(folder) == tars(tmp_path / "whole")
    assert not (folder / ".lock-holder.json").exists()


def test_second_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "go").touch()
    assert run(tmp_path / "whole", "map", stage=STAGE)[0] == 0
    folder = tmp_path / "both"
    first, second = two(folder)
    os.kill(first.pid, 9)
    first.wait()
    (folder / "go").touch()
    printed = second.communicate(timeout=120)[0]
    assert second.returncode == 0, printed
    left = f"process {first.pid} on "
    assert (
        left in printed
        and f"ended without an error message at shard {SHARDS[2]}, sample {SHARDS[2]}-b; its work" in printed
    )
    assert tars(folder) == tars(tmp_path / "whole")
    assert not list(folder.glob(".*.tmp"))
