from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from cluster.actors.pool import PoolError
from cluster.local import LocalRuntime
from cluster.ray_runtime import RayRuntime
from cluster.training.fit_files import RankError
from tests.cluster.tiny import SHARDS, TinyFit, TinyMap, TinyReduce, TorchMap, instance_of
from wsss.contract.failure import Failure
from wsss.contract.fit import WEIGHTS
from wsss.contract.resources import StageResources
from wsss.contract.runtime import RuntimeSettings

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]
FIT = {"batch_size": 4, "num_epochs": 2, "learning_rate": 0.05, "checkpoint_every": 1, "world_size": 2}


def ignore(done: float, total: float, state: str) -> None:
    return


@pytest.fixture(scope="module")
def runtime() -> Iterator[RayRuntime]:
    made = RayRuntime(RuntimeSettings(num_actors=2), address=None)
    yield made
    made.close()
    made.close()


def test_map_survives_a_killed_actor_with_the_bytes_of_the_local_runtime(runtime: RayRuntime, tmp_path: Path) -> None:
    here = instance_of(TinyMap(), tmp_path / "local")
    LocalRuntime(RuntimeSettings()).map(here, here.stage, ignore)  # type: ignore[arg-type]
    stage = TinyMap(die_once_in=SHARDS[2])
    there = instance_of(stage, tmp_path / "ray")
    there.path.mkdir()
    seen: list[float] = []
    runtime.map(there, stage, lambda done, total, state: seen.append(done / total))
    assert (there.path / "died").exists()
    assert seen == sorted(seen) and seen[-1] == 1.0
    for shard in SHARDS:
        assert there.layer.tar_path(shard).read_bytes() == here.layer.tar_path(shard).read_bytes()
    changed = [there.layer.tar_path(shard).stat().st_mtime_ns for shard in SHARDS]
    runtime.map(there, stage, ignore)
    assert [there.layer.tar_path(shard).stat().st_mtime_ns for shard in SHARDS] == changed


def test_map_names_the_shard_and_the_error(runtime: RayRuntime, tmp_path: Path) -> None:
    stage = TinyMap(raise_in=SHARDS[1])
    with pytest.raises(
        PoolError, match=f"shard {SHARDS[1]}, sample {SHARDS[1]}-b: ValueError: this shard holds nonsense"
    ):
        runtime.map(instance_of(stage, tmp_path), stage, ignore)


def test_reduce_adds_all_shards(runtime: RayRuntime, tmp_path: Path) -> None:
    counts = runtime.reduce(instance_of(TinyReduce(), tmp_path), TinyReduce(), ignore)
    np.testing.assert_array_equal(counts.sums["counts"], [5, 11111])


def test_fit_resumes_after_a_killed_rank_with_the_bytes_of_the_local_runtime(
    runtime: RayRuntime, tmp_path: Path
) -> None:
    here, there = tmp_path / "local", tmp_path / "ray"
    here.mkdir()
    there.mkdir()
    LocalRuntime(RuntimeSettings()).fit(instance_of(TinyFit(**FIT), here), TinyFit(**FIT), ignore)
    stage = TinyFit(**FIT, die=True)
    begun = time.monotonic()
    outcome = runtime.fit(instance_of(stage, there), stage, ignore)
    print(f"fit with one restart: {time.monotonic() - begun:.1f} s")
    assert (there / "died").exists()
    assert outcome.metrics["tiny.parameters"] == 125.0
    assert (there / WEIGHTS).read_bytes() == (here / WEIGHTS).read_bytes()
    assert not (there / "ray_train").exists()


@pytest.mark.extended
def test_fit_does_not_retry_a_final_error_and_reports_it(runtime: RayRuntime, tmp_path: Path) -> None:
    stage = TinyFit(batch_size=4, refuse=True)
    with pytest.raises(
        RankError, match=r"^tiny: training failed: rank 0: ValueError: these settings cannot be trained with$"
    ):
        runtime.fit(instance_of(stage, tmp_path), stage, ignore)
    assert (tmp_path / "starts.txt").read_text().count("start") == 1, "an error that would recur is not retried"


def test_cluster_that_cannot_be_reached() -> None:
    code = "from cluster.session.ray_session import connect; connect('127.0.0.1:9')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "ValueError: no Ray cluster answers at 127.0.0.1:9" in ended.stderr


def test_open_session_is_used_and_left_open(runtime: RayRuntime) -> None:
    other = RayRuntime(RuntimeSettings(), address=None)
    other.close()
    assert ray.is_initialized()


def test_more_gpus_than_there_are(tmp_path: Path, runtime: RayRuntime) -> None:
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    greedy = RayRuntime(RuntimeSettings(actor_gpus=1, rank_gpus=1), address=None)
    maps = TorchMap()
    with pytest.raises(ValueError, match=r"runtime\.actor_gpus = 1, but this machine has 0 GPUs"):
        greedy.map(instance_of(maps, tmp_path), maps, ignore)
    own = {"torch_map": StageResources(actor_gpus=2), "tiny": StageResources(actor_cpus=1000)}
    special = RayRuntime(RuntimeSettings(stages=own), address=None)
    with pytest.raises(ValueError, match=r"runtime\.torch_map\.actor_gpus = 2, but this machine has 0 GPUs"):
        special.map(instance_of(maps, tmp_path), maps, ignore)
    with pytest.raises(ValueError, match=r"runtime\.tiny\.actor_cpus = 1000, but this machine has \d+ CPUs"):
        special.reduce(instance_of(TinyReduce(), tmp_path), TinyReduce(), ignore)
    with pytest.raises(ValueError, match=r"runtime\.rank_gpus = 1.* this machine has 0 GPUs"):
        greedy.fit(instance_of(TinyFit(), tmp_path), TinyFit(), ignore)


@pytest.mark.extended
def test_fit_goes_on_with_micro_batches_that_fit(runtime: RayRuntime, tmp_path: Path) -> None:
    """Two ranks of a task that raises torch's error for more than one example."""
    stage, restarts = TinyFit(**FIT, fits=1), list[Failure]()
    outcome = runtime.fit(instance_of(stage, tmp_path), stage, ignore, on_restart=restarts.append)
    (failure,) = restarts
    assert "too small for micro-batches of 2 examples; the training goes on with 1" in failure.message
    assert (failure.cause, failure.final) == ("out of memory", False)
    assert outcome.metrics["micro_batch"] == 1.0
