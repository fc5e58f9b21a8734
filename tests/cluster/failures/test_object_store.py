"""A full object store: work continues on the disk to which Ray spills, or the error says which store and which disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from cluster.failures import object_store
from cluster.local import LocalRuntime
from cluster.ray_runtime import RayRuntime
from tests.cluster.small_cluster import small_cluster
from tests.cluster.tiny import SHARDS, TinyMap, TinyReduce, instance_of
from wsss.contract.failure import WorkFailedError
from wsss.contract.runtime import RuntimeSettings

STORE = 80 * 2**20


@pytest.mark.parametrize("kind", [ObjectStoreFullError, OutOfDiskError])
def test_a_store_that_takes_nothing_is_named_with_its_disks(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(value: Any) -> None:
        raise kind("no")

    monkeypatch.setattr(ray, "put", put)
    with pytest.raises(
        WorkFailedError, match=r"object store is full \(\w+\); its memory is /\S* \(.* free\), the disk"
    ):
        object_store.put(1)


@pytest.fixture
def address() -> Iterator[str]:
    with small_cluster(2, object_store_memory=STORE) as cluster:
        yield cluster.address


@pytest.mark.ray
@pytest.mark.slow
def test_work_continues_with_the_same_bytes_while_others_fill_the_store(address: str, tmp_path: Path) -> None:
    here = instance_of(TinyMap(), tmp_path / "local")
    LocalRuntime(RuntimeSettings()).map(here, here.stage, lambda *_: None)  # type: ignore[arg-type]
    runtime = RayRuntime(RuntimeSettings(num_actors=2), address=address)
    try:
        # Views of stored arrays keep them in memory, where they cannot be moved to the disk.
        held = [ray.get(ray.put(np.full(20 * 2**20, number, np.uint8))) for number in range(6)]
        assert sum(array.nbytes for array in held) > STORE, "the store is full"
        there = instance_of(TinyMap(), tmp_path / "ray")
        runtime.map(there, TinyMap(), lambda *_: None)
        counts = runtime.reduce(instance_of(TinyReduce(), tmp_path / "counts"), TinyReduce(), lambda *_: None)
        assert [int(array[0]) for array in held] == list(range(6))
    finally:
        held = []
        runtime.close()
    for shard in SHARDS:
        assert there.layer.tar_path(shard).read_bytes() == here.layer.tar_path(shard).read_bytes()
    np.testing.assert_array_equal(counts.sums["counts"], [5, 11111])
