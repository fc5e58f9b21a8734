"""Actors that die at one record every time, and shards that are started twice, with Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.actors import pool_work
from cluster.failures.crash_files import KILLED
from cluster.local import LocalRuntime
from cluster.ray_runtime import RayRuntime
from cluster.shard_work import COPIES
from tests.cluster.deadly import PER_SHARD, SHARDS, deadly
from tests.cluster.tiny import SHARDS as TINY_SHARDS
from tests.cluster.tiny import TinyMap, instance_of
from wsss.contract.failure import Failure
from wsss.contract.runtime import RuntimeSettings
from wsss.pipeline.lost_workers import count_losses

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def ignore(done: float, total: float, state: str) -> None:
    return


@pytest.fixture(scope="module")
def runtime() -> Iterator[RayRuntime]:
    made = RayRuntime(RuntimeSettings(num_actors=2), address=None)
    yield made
    made.close()


def test_record_that_ends_its_process_is_set_aside_and_all_else_has_the_same_bytes(
    runtime: RayRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_work, "COPY_AFTER", 1e9)  # a busy machine may need long to see that an actor died
    key = f"{SHARDS[1]}-2"
    (tmp_path / "whole").mkdir()
    (tmp_path / "deadly").mkdir()
    whole = deadly(tmp_path / "whole", refused=(key,))
    LocalRuntime(RuntimeSettings()).map(whole, whole.stage, ignore)  # type: ignore[arg-type]
    instance = deadly(tmp_path / "deadly", deadly=(key,))
    lost: list[Failure] = []
    runtime.map(instance, instance.stage, ignore, on_restart=lost.append)  # type: ignore[arg-type]
    for shard in SHARDS:
        assert instance.layer.tar_path(shard).read_bytes() == whole.layer.tar_path(shard).read_bytes()
    (missing,) = instance.layer.manifest_entry(SHARDS[1]).missing
    assert (missing.key, missing.reason) == (key, f"the process that works on it ends each time: {KILLED}")
    assert instance.layer.manifest_entry(SHARDS[1]).count == PER_SHARD - 1
    assert len((instance.path / "exits.txt").read_text().splitlines()) == 3, "two deaths, and one alone"
    assert [failure.cause for failure in lost] == [KILLED] * 3, "Ray does not say with which status an actor ended"
    assert count_losses(lost) == {"actors": 3.0, "shards_redone": 3.0, "records_set_aside": 1.0}
    assert all(failure.awaited.endswith("of 2 actors are ready, the others are starting") for failure in lost)
    assert lost[-1].redone == f"record {key} is set aside as missing; shard {SHARDS[1]} is done without it"
    assert not list(instance.path.glob(".*.tmp")) and not (instance.path / COPIES).exists()


def test_an_actor_whose_gpu_fails_is_replaced(runtime: RayRuntime, tmp_path: Path) -> None:
    instance = deadly(tmp_path, broken=f"{SHARDS[1]}-2")
    lost: list[Failure] = []
    runtime.map(instance, instance.stage, ignore, on_restart=lost.append)  # type: ignore[arg-type]
    assert all(instance.layer.manifest_entry(shard).count == PER_SHARD for shard in SHARDS)
    cause = "its GPU failed: AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert [failure.cause for failure in lost] == [cause]


def test_slowest_shard_is_done_by_an_idle_actor_and_counts_once(
    runtime: RayRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = instance_of(TinyMap(), tmp_path / "local")
    LocalRuntime(RuntimeSettings()).map(here, here.stage, ignore)  # type: ignore[arg-type]
    monkeypatch.setattr(pool_work, "COPY_AFTER", 1.0)
    stage = TinyMap(hang_once_in=TINY_SHARDS[1])
    there = instance_of(stage, tmp_path / "ray")
    seen: list[float] = []
    begun = time.monotonic()
    runtime.map(there, stage, lambda done, total, state: seen.append(done))
    print(f"{time.monotonic() - begun:.1f} s; the first actor would have taken an hour")
    assert (there.path / "hangs").exists()
    for shard in TINY_SHARDS:
        assert there.layer.tar_path(shard).read_bytes() == here.layer.tar_path(shard).read_bytes()
        assert there.layer.manifest_path(shard).read_bytes() == here.layer.manifest_path(shard).read_bytes()
    assert seen[-1] == len(TINY_SHARDS) and len([d for d in seen if d == len(TINY_SHARDS)]) == 1
    assert not list(there.path.glob(".*.tmp")) and not (there.path / COPIES).exists()
