from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from cluster.session.room import (
    Demand,
    NodeType,
    NoRoomError,
    demand_of,
    out_of_place,
    require_room_here,
    require_room_on,
)
from tests.cluster.tiny import TinyFit, TinyMap, TorchMap, instance_of
from tests.pipeline.chain import run, tiny
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.stage import Stage

CPUS, HEAD, GPU_NODE = {"CPU": 16.0}, {"memory": 1.0}, {"CPU": 8.0, "GPU": 1.0}
FIT = TinyFit(world_size=4)


def demands(stage: Stage, **settings: object) -> list[Demand]:
    return [demand_of(instance_of(stage, Path("unused")), RuntimeSettings(**settings))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stage", "settings", "total", "message"),
    [
        (FIT, {}, {"CPU": 2}, ""),  # ranks share the CPUs of one machine
        (FIT, {"rank_gpus": 1}, {"CPU": 8, "GPU": 4}, ""),
        (FIT, {"rank_gpus": 1}, {"CPU": 8, "GPU": 3}, "for 4 ranks, .* has 3 GPUs; set tiny.world_size to at most 3"),
        (FIT, {"rank_gpus": 1}, {"CPU": 8}, "for 4 ranks, but this machine has 0 GPUs; set runtime.rank_gpus to 0"),
        (TinyMap(), {"num_actors": 3}, {"CPU": 3}, ""),
        (
            TinyMap(),
            {"num_actors": 4},
            {"CPU": 3},
            "actor_cpus = 1 for 4 actors, but .* 3 CPUs; set runtime.num_a",
        ),
        (TinyMap(), {"num_actors": 4, "actor_cpus": 0.5}, {"CPU": 2}, ""),
        (TorchMap(), {"num_actors": 4, "actor_gpus": 0.5}, {"CPU": 9, "GPU": 2}, ""),
        (
            TorchMap(),
            {"num_actors": 5, "actor_gpus": 0.5},
            {"CPU": 9, "GPU": 2},
            "5 actors, .* at most 4, or",
        ),
        (TinyMap(), {"num_actors": 5, "actor_gpus": 1}, {"CPU": 9}, ""),  # it can use no GPU
        (TinyMap(), {"actor_cpus": 4}, {"CPU": 2}, "tiny: runtime.actor_cpus = 4, but this machine has 2 CPUs"),
    ],
)
def test_one_machine(stage: Stage, settings: dict[str, object], total: dict[str, float], message: str) -> None:
    if not message:
        require_room_here(demands(stage, **settings), total)
        return
    with pytest.raises(NoRoomError, match=message):
        require_room_here(demands(stage, **settings), total)


GPU_TYPE = NodeType("gpu", GPU_NODE, 3)


@pytest.mark.parametrize(
    ("nodes", "types", "outcome"),
    [
        ([GPU_NODE] * 4, [], None),
        ([GPU_NODE] * 2, [], "waiting for more nodes, which have to be started by hand"),
        ([HEAD], [], "waiting for more nodes"),  # the nodes that compute are still to come
        (
            [HEAD, CPUS],
            [],
            NoRoomError("no node has a GPU: .* have 16 CPU; no CPU, .* no autoscaler; set"),
        ),
        ([HEAD, CPUS], None, "waiting for nodes"),
        ([HEAD, CPUS, GPU_NODE], [GPU_TYPE], r"waiting for the autoscaler: gpu \(8 CPU and 1 GPU, at most 3\)"),
        ([HEAD], [GPU_TYPE], NoRoomError(r"more than there can be: .* can start gpu \(8 CPU and 1 GPU, at most 3\)")),
        (
            [HEAD],
            [NodeType("cpu", CPUS, 9)],
            NoRoomError("4 ranks with runtime.rank_cpus = 1 and"),
        ),
        ([HEAD], [NodeType("own", {}, 2)], "own .resources of its machine, at most 2"),
    ],
)
def test_four_ranks_with_a_gpu_each(
    nodes: list[dict[str, float]], types: list[NodeType] | None, outcome: str | NoRoomError | None
) -> None:
    wanted = demands(FIT, rank_gpus=1)
    assert bool(out_of_place(wanted, nodes)) == (outcome is not None)
    if isinstance(outcome, NoRoomError):
        with pytest.raises(NoRoomError, match=str(outcome)):
            require_room_on(wanted, nodes, types)
    elif outcome is None:
        assert require_room_on(wanted, nodes, types) == []
    else:
        (line,) = require_room_on(wanted, nodes, types)
        assert re.search(outcome, line), line


def test_each_rank_on_a_node_of_its_own_and_one_actor_is_enough() -> None:
    big = {"CPU": 64.0, "GPU": 8.0}
    assert out_of_place(demands(FIT, rank_gpus=1), [big]) == []
    assert len(out_of_place(demands(FIT, rank_gpus=1, placement="STRICT_SPREAD"), [big] * 3)) == 1
    assert out_of_place(demands(TorchMap(), actor_gpus=1, num_actors=32), [big]) == [], "the others are waited for"


@pytest.mark.parametrize("setting", ["train_segmenter.rank_gpus", "make_cams.actor_gpus"])
def test_without_ray_a_later_stages_gpu_is_refused_before_the_first_stage(setting: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(NoRoomError, match=rf"runtime.{setting} = 1, but this machine has 0 GPUs"):
        run(tiny(tmp_path, f"runtime.{setting}=1"))
    assert list((tmp_path / "store").iterdir()) == []
