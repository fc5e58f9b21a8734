"""What Ray's own autoscaler reports while stages with and without GPUs run: demand for GPUs, and nodes with one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NOT_RUN

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.extended]
SECONDS = 400


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path: Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as made:
        yield Path(made)


def report(folder: Path, *options: str) -> dict[str, Any]:
    """The report of `tests.cluster.autoscaled`, in namespaces of its own."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip(f"{NOT_RUN}namespaces need root, unshare (util-linux) and ip (iproute2)")
    script = f"ip link set lo up && exec {sys.executable} -m tests.cluster.autoscaled {folder} {' '.join(options)}"
    command = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode and "unshare failed" in done.stderr:
        pytest.skip(f"{NOT_RUN}this machine allows no namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(found: dict[str, Any], stage: str) -> list[dict[str, float]]:
    return [row for row in found["rows"] if row["stage"] == stage]


def test_stages_on_cores_ask_for_no_gpu_and_idle_nodes_go(folder: Path) -> None:
    found = report(folder)
    on_gpu, on_cores = rows(found, "gpu"), rows(found, "cpu")
    assert max(row["demand"] for row in on_gpu) == 1 and max(row["nodes"] for row in on_gpu) == 1
    assert len(on_cores) >= 20 and on_cores[0]["nodes"] == 1, "the node was there when the stage on cores began"
    assert max(row["demand"] for row in on_cores) == 0
    assert found["rows"][-1]["nodes"] == 0 and found["rows"][-1]["stage"] == "cpu", "it went during that stage"


def test_a_stage_that_holds_a_gpu_keeps_the_node(folder: Path) -> None:
    """The control: were the stage on cores to hold a GPU, its node would stay."""
    found = report(folder, "held")
    assert {row["nodes"] for row in rows(found, "cpu")} == {1}
