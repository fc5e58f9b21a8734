"""The script of the GPU's checks, on the CPU and in small: a script that never ran cannot be trusted with a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.architecture.sources import ROOT
from tests.gpu.checks import CHECKS, Place, Seen
from tests.gpu.report import rows

TRAININGS = {name for name in CHECKS if name.startswith("training")}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CHECKS if name not in TRAININGS])
def test_a_check_holds_between_the_cpu_and_itself(name: str, tmp_path: Path) -> None:
    seen = CHECKS[name](Place("cpu", tmp_path, large=False))
    assert seen.ok, seen.text


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.parametrize("name", sorted(TRAININGS))
def test_a_training_s_check_holds_on_the_cpu(name: str, tmp_path: Path) -> None:
    seen = CHECKS[name](Place("cpu", tmp_path, large=False))
    assert seen.ok, seen.text


def test_failures_and_a_lack_of_time_are_rows(tmp_path: Path) -> None:
    clock = iter([0.0, 1.0, 3.0, 3.0, 4.0, 11.0])

    def broken(place: Place) -> Seen:
        raise RuntimeError("CUDA error:\n an illegal memory access")

    checks = {"first": lambda place: Seen(True, "equal"), "second": broken, "third": broken}
    found = list(rows(Place("cpu", tmp_path, large=False), checks, most_seconds=10.0, now=lambda: next(clock)))
    assert found == [
        ("first", "equal", 2.0, "ok"),
        ("second", "RuntimeError: CUDA error: an illegal memory access", 1.0, "FAILED"),
        ("third", "no time left", 0.0, "NOT RUN"),
    ]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.report"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.strip()) == (2, "NOT RUN: no GPU")
