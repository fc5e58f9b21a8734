"""The announcement of a spot instance's end becomes a drain, and a training hands over to another node."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import requests
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

from cluster.local import LocalRuntime
from cluster.nodes import spot_notice
from cluster.nodes.spot_notice import Metadata, NoMetadataError, SpotNotice, watch
from cluster.ranks.ray_backend import started_ranks
from cluster.ray_runtime import RayRuntime
from tests.cluster.fake_imds import NOW, SOON, fake_imds
from tests.cluster.small_cluster import small_cluster
from tests.cluster.tiny import TinyFit, instance_of
from wsss.contract.failure import Failure
from wsss.contract.fit import WEIGHTS
from wsss.contract.runtime import RuntimeSettings

ROOT = Path(__file__).parents[3]
FIT = {"batch_size": 4, "num_epochs": 6, "learning_rate": 0.05}


def test_the_announcement_is_read_with_a_token_that_is_renewed_and_by_the_clock_of_the_service() -> None:
    with fake_imds() as imds:
        metadata = Metadata(imds.url)
        assert metadata.notice() is None and metadata.notice() is None
        assert len(imds.tokens) == 1, "one token serves many requests"
        imds.expire()
        imds.announce(when=SOON)
        assert metadata.notice() == SpotNotice("terminate", 90.0)
        assert len(imds.tokens) == 2


@pytest.mark.parametrize(
    ("when", "seconds"), [(SOON, 90.0), ("2026-11-29T11:59:00Z", 0.0), ("2030-01-01T00:00:00Z", 120.0), ("?", 120.0)]
)
def test_seconds_left(when: str, seconds: float) -> None:
    assert spot_notice._seconds_left(when, NOW) == seconds


def test_it_looks_until_there_is_an_announcement_and_tries_again_if_ray_refuses() -> None:
    with fake_imds() as imds:
        drained: list[SpotNotice] = []

        def pause(seconds: float) -> None:
            if imds.looks == 3:
                imds.announce(when=SOON)

        def drain(notice: SpotNotice) -> None:
            drained.append(notice)
            if len(drained) < 3:
                raise RuntimeError("the head is busy") if len(drained) == 1 else RayError("unavailable")

        watch(Metadata(imds.url), drain, interval=5.0, pause=pause)
        assert drained == [SpotNotice("terminate", 90.0)] * 3 and imds.looks == 4


def test_one_failed_answer_at_the_start_does_not_end_it() -> None:
    answers: list[Any] = [requests.ReadTimeout("slow"), None, SpotNotice("stop", 30.0)]

    class Slow(Metadata):
        def notice(self) -> SpotNotice | None:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

    drained: list[SpotNotice] = []
    watch(Slow(), drained.append, interval=1.0, pause=lambda seconds: None)
    assert drained == [SpotNotice("stop", 30.0)] and not answers


def test_without_the_service_there_is_nothing_to_watch() -> None:
    with pytest.raises(NoMetadataError, match=r"no instance metadata service answers at http://127\.0\.0\.1:9"):
        watch(Metadata("http://127.0.0.1:9"), lambda notice: None, interval=1.0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    with small_cluster(0, 1, 1) as made:
        yield made


@pytest.mark.ray
@pytest.mark.extended
def test_training_hands_over_with_a_checkpoint_and_ends_with_the_same_bytes(cluster: Cluster, tmp_path: Path) -> None:
    here = instance_of(TinyFit(**FIT), tmp_path / "local")
    here.path.mkdir()
    LocalRuntime(RuntimeSettings()).fit(here, here.stage, lambda *_: None)  # type: ignore[arg-type]
    stage = TinyFit(**FIT, slow=0.25)
    there = instance_of(stage, tmp_path / "ray")
    there.path.mkdir()
    lost: list[Failure] = []
    nodes: list[str] = []
    runtime = RayRuntime(RuntimeSettings(), address=cluster.address)
    try:
        with fake_imds() as imds:

            def progress(done: float, total: float, state: str) -> None:
                """At the second step, its node is announced to end."""
                if started_ranks(there.path / "ray_train"):
                    nodes.extend(node for node in _busy() if node not in nodes)
                if done >= 2 and nodes and imds.announced is None:
                    imds.announce(when=SOON)
                    words = ["--address", cluster.address, "--endpoint", imds.url, "--node-id", nodes[0]]
                    command = [sys.executable, "-m", "cluster.nodes.spot_notice", *words, "--interval", "0.2"]
                    environment = os.environ | {"PYTHONPATH": str(ROOT)}
                    watcher = subprocess.run(
                        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
                    )
                    assert watcher.returncode == 0, watcher.stderr

            begun = time.monotonic()
            runtime.fit(there, stage, progress, on_restart=lost.append)
            print(f"{time.monotonic() - begun:.1f} s with one hand-over")
    finally:
        runtime.close()
    (failure,) = lost
    assert failure.message == "a checkpoint was saved, because the node of rank 0 will be taken away"
    assert int(failure.step) < 18 and failure.steps_redone == 0 and "no finished step is done again" in failure.redone
    assert len(nodes) == 2, "it resumed on the other node"
    assert (there.path / WEIGHTS).read_bytes() == (here.path / WEIGHTS).read_bytes()


def _busy() -> list[str]:
    """The nodes whose CPU is in use."""
    free = ray._private.state.available_resources_per_node()
    with_cpu = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return [node for node in with_cpu if free.get(node, {}).get("CPU", 0.0) < 1]
