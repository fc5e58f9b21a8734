"""SIGTERM, as a batch system or `docker stop` sends it: a clean end, whatever is under way, and the work resumes."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import sqlite3
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.driver import ROOT, run, start, terminate, wait_for
from tests.cluster.tiny import SHARDS
from wsss.contract.closed_output import READER_GONE

pytestmark = pytest.mark.slow

STOPPED = "stopped; the same command resumes from here"
FIT = {"batch_size": 4, "num_epochs": 2, "learning_rate": 0.05, "checkpoint_every": 1}
MARKERS = {"map": "hangs", "reduce": "hangs", "fit": "died"}


def assert_clean(status: int, printed: str, alive: list[str]) -> None:
    assert status == 143, printed
    assert printed.strip().splitlines()[-1] == STOPPED
    assert printed.count(STOPPED) == 1
    for noise in ("Traceback", "SIGTERM received", "terminate called", "Fatal Python error", "Stack", ".cc:"):
        assert noise not in printed, printed
    assert alive == [], "processes live on"


@pytest.mark.parametrize(
    "place", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])], ids=["local", "ray"]
)
@pytest.mark.parametrize(
    "kind", ["map", *(pytest.param(kind, marks=pytest.mark.extended) for kind in ("reduce", "fit"))]
)
def test_while_at_work(kind: str, place: str, tmp_path: Path) -> None:
    stage = {**FIT, "hang": True} if kind == "fit" else {"hang_in": SHARDS[2]}
    process = start(tmp_path, kind, place=place, stage=stage)
    wait_for(tmp_path / MARKERS[kind], process)
    assert_clean(*terminate(process))
    assert not (tmp_path / "error.txt").exists(), "to be stopped is no failure"
    (tmp_path / MARKERS[kind]).unlink()
    status, printed = run(tmp_path, kind, place=place, stage=FIT if kind == "fit" else {})
    assert status == 0, printed
    assert not list(tmp_path.glob(".*.tmp"))
    if kind == "fit":
        assert (tmp_path / "starts.txt").read_text().count("start") == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "seconds", [1.5, *(pytest.param(moment, marks=pytest.mark.extended) for moment in (0.3, 3.0, 4.5, 6.0))]
)
def test_while_ray_starts(seconds: float, tmp_path: Path) -> None:
    """At whatever moment; how far the start is then depends on the machine."""
    process = start(tmp_path, "map", place="ray", stage={"hang_in": SHARDS[2]})
    wait_for(tmp_path / "started", process)
    time.sleep(seconds)
    assert_clean(*terminate(process))


@pytest.mark.extended
@pytest.mark.ray
@pytest.mark.slow
def test_while_a_sweep_runs(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "search.toml").write_text(SWEEP)
    runs = tmp_path / "runs"
    words = ["-m", "wsss", "sweep", str(tmp_path / "search.toml"), "--set", f"runtime.runs={runs}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, start_new_session=True, **pipes)  # type: ignore[call-overload]
    end = time.monotonic() + 240
    # The second classifier is a trial's: it stands beside the one that all trials share.
    while len(list(runs.glob("store/train_classifier-*/checkpoints/latest.json"))) < 1:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no trial came to its first checkpoint"
        time.sleep(0.05)
    assert_clean(*terminate(process))


def test_a_run_whose_output_nobody_reads_any_more_is_stopped_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE)
    words = [
        sys.executable,
        "-m",
        "wsss",
        "run",
        str(tmp_path / "base.toml"),
        "--set",
        f"runtime.runs={tmp_path / 'r'}",
    ]
    command = (
        f"{shlex.join([*words, '--on', 'local', '--to', 'build_shards'])} 2>&1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == ["loading torch …", "141"] and not done.stderr
    with closing(sqlite3.connect(tmp_path / "r" / "mlflow.db")) as database:
        found = dict(database.execute("SELECT name, status FROM runs"))
        reasons = database.execute("SELECT value FROM tags WHERE key = 'wsss.reason'").fetchall()
    assert found["base"] == "KILLED" and "RUNNING" not in found.values()
    assert {reason for (reason,) in reasons} == {READER_GONE}


@pytest.mark.extended
def test_a_run_whose_terminal_is_closed_is_stopped_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE)
    runs = tmp_path / "r"
    words = ["-m", "wsss", "run", str(tmp_path / "base.toml"), "--set", f"runtime.runs={runs}", "--on", "local"]
    ours, theirs = pty.openpty()
    # A session whose terminal this is gets SIGHUP when it is closed.
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    end = time.monotonic() + 240
    while not list(runs.glob("store/train_classifier-*/checkpoints/latest.json")):
        assert process.poll() is None and time.monotonic() < end
        if select.select([ours], [], [], 0.1)[0]:
            os.read(ours, 4096)
    os.close(ours)
    assert process.wait(120) == 143
    with closing(sqlite3.connect(runs / "mlflow.db")) as database:
        found = dict(database.execute("SELECT name, status FROM runs"))
    assert found["base"] == "KILLED" and "RUNNING" not in found.values()


BASE = """
[recipe]
name = "base"
[stages.build_shards]
source = "toy"
counts = { train = 16, val = 8 }
size = 64
shard_size = 4
[stages.train_classifier]
encoder = "test_efficientnet"
pretrained = "none"
norm = "batch"
crop_size = 64
resize_long = [48, 80]
batch_size = 8
num_epochs = 2000
checkpoint_every = 1
[stages.make_cams]
scales = [1.0]
[stages.make_seeds]
[stages.train_affinity]
encoder = "test_efficientnet"
pretrained = "none"
crop_size = 64
radius = 5
[stages.make_scores]
[stages.make_pseudo_labels]
[stages.evaluate]
inputs = { records = "make_pseudo_labels" }
"""
SWEEP = """
[sweep]
name = "search"
recipe = "base.toml"
metric = "evaluate"
num_trials = 4
[space]
train_classifier.learning_rate = { low = 0.001, high = 0.1, log = true }
"""
