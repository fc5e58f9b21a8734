"""What a run lost is counted and named in its record."""

from __future__ import annotations

from cluster.failures.death_cause import NODE_DIED, PREEMPTED
from wsss.contract.failure import Failure
from wsss.pipeline.lost_workers import MAX_LINES, count_losses, loss_lines

LOST = [
    Failure(message=NODE_DIED, cause=NODE_DIED, who="actor 1", shard="s", host="w1", redone="shard s is done again"),
    Failure(message=NODE_DIED, cause=NODE_DIED, who="actor 2", shard="t", host="w1", redone="nothing: another actor"),
    Failure(message="killed", cause="killed", who="rank 1", step="9", host="w2", redone="x", steps_redone=4),
    Failure(message="killed", cause="killed", who="rank 0", step="7", host="w2", redone="x", steps_redone=2),
    Failure(message="saved", cause=PREEMPTED, who="the group of ranks", redone="x"),
    Failure(message="killed", cause="killed", who="actor 1", shard="s", redone="record k is set aside", set_aside="k"),
]


def test_counts() -> None:
    assert count_losses(LOST) == {
        "actors": 3.0,
        "ranks": 2.0,
        "nodes": 1.0,
        "preemptions": 1.0,
        "shards_redone": 2.0,
        "steps_redone": 6.0,
        "records_set_aside": 1.0,
    }
    assert count_losses([]) == {}


def test_lines_name_who_where_why_and_what_is_redone() -> None:
    lines = loss_lines(LOST)
    assert lines[0] == "actor 1, shard s on w1: its node died; shard s is done again"
    assert lines[2] == "rank 1, step 9 on w2: killed; x"
    assert len(loss_lines(LOST * 20)) == MAX_LINES
