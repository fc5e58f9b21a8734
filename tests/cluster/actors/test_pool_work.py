"""What a pool decides about its shards: repeated, looked into, set aside, started twice. No Ray."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from cluster.actors import pool_work
from cluster.actors.pool_work import MAX_ATTEMPTS, PoolRun, Slot, Task
from cluster.failures.death_cause import NODE_DIED, PREEMPTED
from wsss.contract.failure import Failure


def run_of(*shards: str) -> PoolRun:
    return PoolRun(deque(shards), lambda actor, task: None, lambda shard, result: None, may_set_aside=True)


def died(run: PoolRun, task: Task, *, sample: str = "", cause: str = "exit code 7") -> tuple[Failure, str]:
    """An actor dies at a task, which goes back into the queue."""
    slot = Slot(1, None, None, task)
    failure = run.count_death(slot, Failure(message=cause, cause=cause, sample=sample))
    run.pending.appendleft(task.shard)
    return failure, run.stop_reason(slot)


def test_after_two_deaths_the_records_are_processed_one_at_a_time_and_the_deadly_one_is_set_aside() -> None:
    run = run_of("s")
    for _ in range(2):
        task = run.next_task()
        assert task == Task("s", "final")
        assert died(run, task, sample="s-2, s-3")[1] == ""
    probe = run.next_task()
    assert probe.mode == "probe"
    failure, stop = died(run, probe, sample="s-3")
    assert (stop, failure.redone) == ("", "record s-3 is set aside as missing; shard s is done without it")
    reason = "the process that works on it ends each time: exit code 7"
    assert run.next_task() == Task("s", "final", (("s-3", reason),))


def test_tries_are_bounded_if_no_single_record_is_to_blame() -> None:
    run = run_of("s")
    modes, stop = [], ""
    while not stop:
        task = run.next_task()
        modes.append(task.mode)
        if task.mode == "probe":
            run.pending.appendleft("s")  # nothing happens: it dies only in company
        else:
            stop = died(run, task, sample="s-0, s-1")[1]
    assert modes == ["final", "final", "probe", "final"]
    assert stop == f"{MAX_ATTEMPTS} actors died while working on it; the last"


def test_too_many_records_of_a_stage_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_work, "MAX_SET_ASIDE", 2)
    run, stops = run_of("s"), []
    for number in range(3):
        for _ in range(3):
            _, stop = died(run, run.next_task(), sample=f"s-{number}")
        stops.append(stop)
    assert stops[:2] == ["", ""]
    assert stops[2].startswith("3 records of this stage end the process that works on them, more than 2")


@pytest.mark.parametrize("cause", [PREEMPTED, NODE_DIED])
def test_the_death_of_a_node_is_not_held_against_a_shard(cause: str) -> None:
    run = run_of("s")
    for _ in range(5):
        task = run.next_task()
        assert task.mode == "final"
        assert died(run, task, sample="s-1", cause=cause)[1] == ""


def test_what_is_slow_is_never_set_aside() -> None:
    run = run_of("s")
    modes = []
    for _ in range(MAX_ATTEMPTS):
        task = run.next_task()
        modes.append(task.mode)
        _, stop = died(run, task, sample="s-1", cause=f"{pool_work.STUCK}worked on one shard for too long")
    assert modes == ["final"] * 3 and stop


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_the_slowest_shard_is_started_again_only_near_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(pool_work, "time", clock)
    run = run_of("a", "b", "c")
    slots = [Slot(n, None, None, Task(s), since=since, ready=True) for n, s, since in ((1, "a", 50.0), (2, "b", 40.0))]
    run.seconds = [5.0, 6.0, 7.0]
    assert run.slowest(slots) is None, "other shards are pending"
    run.pending.clear()
    assert run.slowest(slots) is slots[1]
    run.copied.add("b")
    assert run.slowest(slots) is slots[0], "each is started again once"
    run.seconds = [40.0, 40.0]
    assert run.slowest(slots) is None, "50 s are not much more than the median"
    run.seconds = []
    assert run.slowest(slots) is None, "nothing is known yet"
    run.seconds, run.attempts["a"] = [5.0], 1
    assert run.slowest(slots) is None, "a shard on which an actor died is not given to two"


def slots_of(*shards: str) -> list[Any]:
    return [Slot(n, None, None, Task(s), ready=True) for n, s in enumerate(shards)]


def test_a_copy_is_never_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_work, "time", Clock())
    run = run_of("a")
    run.pending.clear()
    run.seconds = [1.0]
    (slot,) = slots_of("a")
    slot.task = Task("a", "copy")
    assert run.slowest([slot]) is None
