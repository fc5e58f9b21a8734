from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.chain import files, layers, run, tiny
from tests.pipeline.two_nodes import OVERRIDES
from wsss.contract.fit import Fit, weights_path

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.extended]


def test_two_nodes_with_a_rank_on_each_give_the_bytes_of_one_process(tmp_path: Path) -> None:
    local = tiny(tmp_path / "local", *OVERRIDES)
    run(local)
    command = [sys.executable, "-m", "tests.pipeline.two_nodes", str(tmp_path / "cluster")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["cpus"] == [1, 1], "a rank takes a CPU, so that two ranks need both nodes"

    cluster = tiny(tmp_path / "cluster", *OVERRIDES)
    assert said["executed"] == [instance.name for instance in cluster.instances]
    for name in layers(local):
        assert files(cluster.instance(name)) == files(local.instance(name)), name
    for instance in local.instances:
        if isinstance(instance.stage, Fit):
            weights = weights_path(cluster.instance(instance.name)).read_bytes()
            assert weights == weights_path(instance).read_bytes(), instance.name
