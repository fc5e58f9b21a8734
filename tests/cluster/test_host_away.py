"""STRICT_SPREAD with a host away: what is waited for is said, and the training begins when the host is there."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from cluster.local import LocalRuntime
from cluster.ray_runtime import RayRuntime
from tests.cluster.driver import start, wait_for
from tests.cluster.small_cluster import patiently, small_cluster
from tests.cluster.tiny import TinyFit, instance_of
from wsss.contract.fit import WEIGHTS
from wsss.contract.runtime import RuntimeSettings

pytestmark = [pytest.mark.ray, pytest.mark.extended]
FIT = {"batch_size": 4, "num_epochs": 1, "learning_rate": 0.05, "world_size": 2}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with small_cluster(2) as made:
        yield made


def test_ranks_wait_for_a_second_host_and_say_so(cluster: Cluster, tmp_path: Path) -> None:
    here = instance_of(TinyFit(**FIT), tmp_path / "local")
    here.path.mkdir()
    LocalRuntime(RuntimeSettings()).fit(here, here.stage, lambda *_: None)  # type: ignore[arg-type]
    there = instance_of(TinyFit(**FIT), tmp_path / "ray")
    there.path.mkdir()
    states: list[str] = []
    waits = threading.Event()

    def progress(done: float, total: float, state: str) -> None:
        if state not in states:
            states.append(state)
        if "waiting for 1 more node" in state:
            waits.set()

    runtime = RayRuntime(RuntimeSettings(placement="STRICT_SPREAD"), address=cluster.address)
    try:
        # A node can only be added in the main thread.
        training = threading.Thread(target=runtime.fit, args=(there, there.stage, progress), daemon=True)
        training.start()
        assert waits.wait(timeout=120), states
        assert not (there.path / "starts.txt").exists(), "no rank has begun"
        patiently(lambda: cluster.add_node(num_cpus=1))
        training.join(timeout=240)
    finally:
        runtime.close()
    waited = (
        "waiting for 1 more node: 2 ranks of 1 CPU each, each on a node of its own (runtime.placement = STRICT_SPREAD)"
    )
    assert any(state.startswith(waited) for state in states), states
    assert (there.path / WEIGHTS).read_bytes() == (here.path / WEIGHTS).read_bytes()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_driver_that_waits_for_a_host_can_be_stopped(
    number: signal.Signals, status: int, cluster: Cluster, tmp_path: Path
) -> None:
    placed = {"placement": "STRICT_SPREAD"}
    # A shell that starts the tests in the background has its children ignore SIGINT.
    before = ("env", "--default-signal=INT")
    process = start(tmp_path, "fit", place=cluster.address, stage=FIT, runtime=placed, before=before)
    wait_for(tmp_path / "ray_train", process)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("ray_train/attempt-*")) and time.monotonic() < until:
        time.sleep(0.2)  # until Ray Train's controller waits for the second node
    time.sleep(3)
    begun = time.monotonic()
    os.kill(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == status, printed
    assert printed.strip().splitlines()[-1] == "stopped; the same command resumes from here"
    assert time.monotonic() - begun < 45, "it does not wait for the node"
