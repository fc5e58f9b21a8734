"""A training killed with two ranks goes on with one, by the command line, in a folder of runs that was moved."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.training.checkpoints import RANKS
from tests.pipeline.chain import TINY, tiny
from tests.pipeline.test_tiny import wait_until_gone
from wsss.contract.fit import Fit

pytestmark = pytest.mark.extended

SHORT = ("train_classifier.num_epochs=16",)
STEPS = 32
SECONDS = 240


def command(verb: str, runs: Path, *given: str) -> list[str]:
    settings = [f"runtime.runs={runs}", *SHORT, *given]
    listed = [argument for setting in settings for argument in ("--set", setting)]
    return [sys.executable, "-m", "wsss", verb, str(TINY), *listed]


def run_to_cams(runs: Path, *given: str) -> str:
    arguments = [*command("run", runs, *given), "--to", "make_cams", "--on", "local"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_killed_with_two_ranks_and_resumed_with_one(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    before = tiny(first, *SHORT, "train_*.world_size=2").instance("train_classifier")
    arguments = [*command("run", first, "train_*.world_size=2"), "--to", "train_classifier", "--on", "local"]
    driver = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    pointer, end = before.path / "checkpoints" / "latest.json", time.monotonic() + SECONDS
    while not pointer.exists():
        assert driver.poll() is None and time.monotonic() < end, "the training never came to its first checkpoint"
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    wait_until_gone(driver.pid, seconds=20)
    step = json.loads(pointer.read_bytes())["step"]
    assert step < STEPS, "it was killed at work"
    first.rename(second)
    printed = run_to_cams(second, "train_*.world_size=1")
    assert (
        f"computed by different numbers of ranks: steps 1 to {step} by 2, steps {step + 1} to {STEPS} by 1" in printed
    )
    now = tiny(second, *SHORT)
    assert [i.fingerprint for i in now.instances] == [i.fingerprint for i in tiny(first, *SHORT).instances]
    record = now.instance("train_classifier").run_record()
    assert record is not None and [part["world_size"] for part in record.tables[RANKS]] == [2, 1]
    assert now.instance("make_cams").is_done() and isinstance(before.stage, Fit)
    second.rename(third)
    written = [path for path in third.rglob("*") if path.suffix in (".json", ".md") and path.is_file()]
    assert not [path for path in written if str(tmp_path) in path.read_text()]
    shown = subprocess.run(command("show", third), capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    assert shown.count("done in") == 3
    again = run_to_cams(third, "train_*.world_size=2")
    for name in ("build_shards", "train_classifier", "make_cams"):
        assert f"kept   {name}" in again
