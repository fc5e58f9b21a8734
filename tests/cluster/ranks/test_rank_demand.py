"""What ranks wait for is said: nodes that are away, nodes in use, ranks that load."""

from __future__ import annotations

from typing import Any

from cluster.ranks.rank_demand import RankDemand


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeManagerHostname": name, "NodeID": name, "Alive": alive, "Resources": resources if alive else {}}


STRICT = RankDemand(2, {"CPU": 1.0}, "STRICT_SPREAD")
FREE = {"CPU": 4.0}


def test_a_node_that_is_away_is_named() -> None:
    nodes = [node("head", CPU=2.0), node("w1", alive=False)]
    assert STRICT.awaited_of(nodes, free=FREE) == (
        "waiting for 1 more node: 2 ranks of 1 CPU each, each on a node of its own "
        "(runtime.placement = STRICT_SPREAD); nodes that fit: head; lost: w1"
    )
    back = [*nodes, node("w1", CPU=2.0)]
    assert STRICT.awaited_of(back, free=FREE) == "starting 2 ranks of 1 CPU each"


def test_ranks_that_hold_what_they_need_are_starting() -> None:
    nodes = [node("a", CPU=2.0)]
    demand = RankDemand(2, {"CPU": 1.0}, "PACK")
    group = {"state": "CREATED", "bundles": {0: {"CPU": 1.0}, 1: {"CPU": 1.0}}}
    waits = "waiting for 2 ranks of 1 CPU each: others use the cluster, 0 CPU are free"
    assert demand.awaited_of(nodes, free={}, groups=[group]) == "starting 2 ranks of 1 CPU each"
    for other in ({**group, "state": "PENDING"}, {**group, "bundles": {0: {"CPU": 2.0}}}):
        assert demand.awaited_of(nodes, free={}, groups=[other]) == waits


def test_too_little_room_and_others_at_work_are_told_apart() -> None:
    demand = RankDemand(4, {"CPU": 1.0, "GPU": 1.0}, "PACK")
    nodes = [node("a", CPU=8.0, GPU=2.0), node("b", CPU=8.0)]
    assert demand.awaited_of(nodes, free={"CPU": 16.0, "GPU": 2.0}) == (
        "waiting for more nodes: 4 ranks of 1 CPU and 1 GPU each, and the nodes have room for 2 (a)"
    )
    enough = [*nodes, node("c", CPU=8.0, GPU=4.0)]
    assert demand.awaited_of(enough, free={"CPU": 20.0, "GPU": 1.0}) == (
        "waiting for 4 ranks of 1 CPU and 1 GPU each: others use the cluster, 20 CPU and 1 GPU are free"
    )
