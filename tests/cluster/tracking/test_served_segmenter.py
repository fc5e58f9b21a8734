"""The model that MLflow serves is made without a warning to the user."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.sources import ROOT


@pytest.mark.slow
def test_making_it_warns_of_nothing() -> None:
    code = "from cluster.tracking.served_segmenter import served; print(type(served()).__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("ServedSegmenter", "")
