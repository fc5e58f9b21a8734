from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.actors.pool import ActorPool, PoolError
from cluster.session.ray_session import connect
from tests.cluster.tiny import die_once

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Worker:
    """Returns the shard's name in upper case; some names make it die, raise or take long."""

    def __init__(self, folder: str, broken: bool) -> None:
        if broken:
            raise OSError("no model here")
        self._folder = Path(folder)

    def work(self, shard: str) -> tuple[str, int]:
        with (self._folder / f"{shard}.log").open("a") as file:
            file.write("begun\n")
        if shard.startswith("fragile"):
            die_once(self._folder / f"{shard}.died")
        if shard.startswith("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        if shard.startswith("wrong"):
            raise ValueError(f"cannot read {shard}")
        if shard.startswith("slow"):
            time.sleep(60)
            (self._folder / f"{shard}.done").touch()
        return shard.upper(), os.getpid()


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    opened = connect(None)
    yield
    if opened:
        ray.shutdown()


def pool_of(
    folder: Path, *, size: int = 2, num_cpus: float = 0.5, broken: bool = False, seconds: float = 120
) -> ActorPool:
    cls = ray.remote(Worker).options(num_cpus=num_cpus, max_restarts=0)
    return ActorPool(lambda: cls.remote(str(folder), broken), size=size, start_seconds=seconds)


def run(pool: ActorPool, shards: list[str]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    pool.run(shards, submit=lambda actor, task: actor.work.remote(task.shard), done=results.__setitem__)
    return results


def times_begun(folder: Path, shard: str) -> int:
    return len((folder / f"{shard}.log").read_text().splitlines())


@pytest.mark.usefixtures("session")
def test_work_of_dead_actors_is_done_by_others_and_actors_are_kept(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    first = run(pool, ["a", "fragile-1", "b", "fragile-2", "c", "d", "e"])
    assert {shard: upper for shard, (upper, _) in first.items()} == {s: s.upper() for s in first}
    assert sorted(first) == ["a", "b", "c", "d", "e", "fragile-1", "fragile-2"]
    assert times_begun(tmp_path, "fragile-1") == times_begun(tmp_path, "fragile-2") == 2
    second = run(pool, ["f", "g"])
    assert {pid for _, pid in second.values()} <= {pid for _, pid in first.values()}
    pool.close()


@pytest.mark.extended
@pytest.mark.usefixtures("session")
def test_shard_that_kills_its_actor_three_times_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="actor 1, shard poison-7: 3 actors died"):
        run(pool_of(tmp_path, size=1), ["poison-7", "a"])
    assert times_begun(tmp_path, "poison-7") == 3


@pytest.mark.extended
@pytest.mark.usefixtures("session")
def test_actor_slot_is_not_refilled_after_its_last_restart(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="every actor died more than 4 times"):
        run(pool_of(tmp_path, size=1), [f"fragile-{number}" for number in range(7)])
    assert len(list(tmp_path.glob("*.died"))) == 5


@pytest.mark.usefixtures("session")
def test_exception_stops_the_run_immediately_and_cancels_the_rest(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    run(pool, ["a", "b"])
    with pytest.raises(PoolError, match=r"^shard wrong-3: ValueError: cannot read wrong-3$"):
        run(pool, ["slow-1", "wrong-3", "c"])
    assert not (tmp_path / "slow-1.done").exists(), "the error waited for the shards in progress"
    assert times_begun(tmp_path, "wrong-3") == 1
    assert not (tmp_path / "c.log").exists()
    assert sorted(run(pool, ["d", "e"])) == ["d", "e"], "the pool can be used after an error"
    pool.close()


@pytest.mark.extended
@pytest.mark.usefixtures("session")
def test_actors_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"(?s)an actor cannot start: .*no model here"):
        run(pool_of(tmp_path, broken=True), ["a"])
    greedy = pool_of(tmp_path, num_cpus=1000, seconds=1)
    with pytest.raises(PoolError, match="none of 1 actors started within 1 s"):
        run(greedy, ["a"])
    greedy.close()
    assert run(pool_of(tmp_path), []) == {}
