"""Time on a cluster, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wsss.contract.cost import FitWork, Load, ShardWork, Storage
from wsss.plan.costs import Cost, Costs, Gpu, PlanError, load_costs
from wsss.plan.hardware import (
    CPU,
    DECODE,
    DRIVER,
    GPU,
    NETWORK,
    START,
    STORAGE,
    Cluster,
    Limits,
    basis_of,
    cluster_of,
    time_of,
)

ROUND = Gpu(
    name="ROUND",
    fp32=1e12,
    bf16=4e12,
    bandwidth=1e12,
    fp32_use=0.5,
    bf16_use=0.25,
    basis="assumed",
    source="made up",
    use_source="made up",
)
"""5e11 operations/s in fp32, 1e12 in bf16."""


def cost(value: float, basis: str = "measured") -> Cost:
    return Cost(value=value, unit="core-s", basis=basis, source="made up")  # type: ignore[arg-type]


COSTS = Costs(
    {
        "decode": cost(0.01),
        "walk": cost(0.1),
        "row": cost(1e-5),
        "start_actor": cost(5.0),
        "start_rank": cost(10.0),
        "pass_seconds": cost(0.001, "assumed"),
        "array_use": cost(0.5, "assumed"),
        "core_bandwidth": cost(1e10),
        "core_flops": cost(1e10),
        **{name: cost(1.0) for name in ("image_bytes", "mask_bytes", "map_bytes", "record_bytes", "weight_bytes")},
    },
    {},
)
CLUSTER = Cluster(nodes=2, gpus_per_node=4, gpu=ROUND, cores_per_node=16, network_gbps=8, storage_gbps=16)
MAPS = ShardWork(
    images=6400,
    shards=64,
    load=Load(core={"decode": 1.0}, arrays={"walk": 1.0}, flops=5e10, passes=1.0),
    has_network=True,
    storage=Storage(read=4e9, written=4e9, requests=128.0),
    driver={"row": 6400.0},
)
TRAINING = FitWork(
    examples=3200,
    epochs=2,
    batch_size=32,
    accumulation=1,
    ranks=4,
    load=Load(core={"decode": 1.0}, flops=1e10, passes=3.0),
    precision="fp32",
    loader_workers=4,
    exchanged=1e8,
    storage=Storage(read=2e9, written=2e9),
    fetched=Storage(),
    start={"start_rank": 1.0},
    validation=Load(),
)


def test_actors_by_hand() -> None:
    usage = time_of(MAPS, CLUSTER, COSTS, Limits())
    # An image: 0.01 s of a core, 5e10 / 5e11 s of network, 0.1 s of a core's walk at 1e10 / (1e12 / 2) of the time.
    image = 0.01 + 0.1 + 0.1 * 0.02
    assert usage.parts[GPU] == pytest.approx(8 * 100 * image)  # 64 shards of 100 on 8 actors
    assert usage.parts[STORAGE] == pytest.approx(8 * 8e9 / 16e9)
    assert usage.parts[NETWORK] == pytest.approx(8 * 8e9 / (2 * 8e9))
    assert usage.parts[DRIVER] == pytest.approx(0.064)
    assert usage.seconds == pytest.approx(8 * 100 * image + 5.0 + 0.064)
    assert (usage.bound, usage.used, usage.held, usage.gpus) == (GPU, 8, 8, 8.0)
    assert usage.core_seconds == pytest.approx(64.0 + 0.064)
    assert basis_of(usage, COSTS, ROUND) == "assumed"


def test_the_same_actors_on_cores() -> None:
    alone = replace(CLUSTER, gpus_per_node=0, gpu=None)
    usage = time_of(MAPS, alone, COSTS, Limits())
    assert usage.parts[CPU] == pytest.approx(2 * 100 * (0.01 + 5.0 + 0.1))  # 32 cores, two rounds
    assert (usage.bound, usage.gpus) == (CPU, 0.0)
    assert basis_of(usage, COSTS, None) == "measured"


def test_training_by_hand() -> None:
    usage = time_of(TRAINING, CLUSTER, COSTS, Limits())
    # 200 steps of 8 examples a rank; all four ranks on one node exchange nothing over the network.
    assert usage.parts[GPU] == pytest.approx(200 * 8 * 1e10 / 5e11)
    assert usage.parts[DECODE] == pytest.approx(200 * 8 * 0.01 / 4)
    assert usage.parts[START] == pytest.approx(10.0)
    assert usage.seconds == pytest.approx(200 * 0.16 + 10.0)
    assert (usage.bound, usage.used, usage.held, usage.exchanged) == (GPU, 4, 8, 0.0)


def test_ranks_on_two_nodes_exchange_gradients() -> None:
    usage = time_of(replace(TRAINING, ranks=8), CLUSTER, COSTS, Limits())
    exchange = 2 * 1 / 2 * 8 * 1e8 / 8e9
    assert usage.seconds == pytest.approx(200 * (4 * 1e10 / 5e11 + exchange) + 10.0)
    assert usage.exchanged == pytest.approx(200 * 2 * 1e8)
    assert usage.bound == NETWORK


def test_a_loader_without_processes_is_waited_for() -> None:
    apart = time_of(TRAINING, CLUSTER, COSTS, Limits())
    inside = time_of(replace(TRAINING, loader_workers=0), CLUSTER, COSTS, Limits())
    assert inside.seconds == pytest.approx(apart.seconds + 200 * 8 * 0.01)


def test_loaders_share_the_cores_of_their_node() -> None:
    few = time_of(replace(TRAINING, loader_workers=64), replace(CLUSTER, cores_per_node=1), COSTS, Limits())
    assert few.parts[DECODE] == pytest.approx(200 * 8 * 0.01 * 4)
    assert few.bound == DECODE
    assert basis_of(few, COSTS, ROUND) == "measured"


def test_bf16_takes_the_other_peak_where_there_is_one() -> None:
    bf16 = replace(TRAINING, precision="bf16")
    assert time_of(bf16, CLUSTER, COSTS, Limits()).parts[GPU] == pytest.approx(200 * 8 * 1e10 / 1e12)
    old = replace(CLUSTER, gpu=replace(ROUND, bf16=None))
    assert time_of(bf16, old, COSTS, Limits()).parts[GPU] == pytest.approx(200 * 8 * 1e10 / 5e11)


def test_small_parts_wait_for_their_passes() -> None:
    tiny = replace(TRAINING, load=replace(TRAINING.load, flops=1.0), accumulation=2)
    assert time_of(tiny, CLUSTER, COSTS, Limits()).parts[GPU] == pytest.approx(200 * 2 * 3 * 0.001)


def test_twice_the_images_take_twice_as_long_but_for_the_start() -> None:
    once = time_of(MAPS, CLUSTER, COSTS, Limits())
    twice = time_of(
        replace(MAPS, images=12800, shards=128, driver={"row": 12800.0}, storage=Storage(read=8e9, written=8e9)),
        CLUSTER,
        COSTS,
        Limits(),
    )
    assert twice.seconds - 5.0 == pytest.approx(2 * (once.seconds - 5.0))
    assert time_of(replace(TRAINING, examples=6400), CLUSTER, COSTS, Limits()).parts[GPU] == pytest.approx(
        2 * time_of(TRAINING, CLUSTER, COSTS, Limits()).parts[GPU]
    )


def test_twice_the_gpus_halve_their_part_until_something_else_binds() -> None:
    clusters = [replace(CLUSTER, nodes=nodes, cores_per_node=64) for nodes in (2, 4, 8, 16)]
    found = [time_of(MAPS, cluster, COSTS, Limits()) for cluster in clusters]
    parts = [usage.parts[GPU] for usage in found]
    assert parts[1:] == pytest.approx([part / 2 for part in parts[:-1]])
    slow = replace(clusters[-1], storage_gbps=1)
    bound = time_of(MAPS, slow, COSTS, Limits())
    assert bound.bound == STORAGE
    assert bound.seconds == pytest.approx(64.0 + 5.0 + 0.064)


def test_more_actors_than_shards_are_idle() -> None:
    few = time_of(replace(MAPS, shards=3), CLUSTER, COSTS, Limits())
    assert (few.used, few.held) == (3, 8)
    assert few.parts[GPU] == pytest.approx(6400 / 3 * 0.112)


def test_actors_that_share_a_gpu_overlap_their_reading_not_their_computing() -> None:
    shared = time_of(MAPS, CLUSTER, COSTS, Limits(actor_gpus=0.25))
    assert shared.held == 32
    assert shared.parts[GPU] == pytest.approx(6400 * 0.102 / 8)


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "gpus", "ranks"), [(64, 1, 512, 64), (48, 2, 10, 8), (7, 1, 4, 1)]
)
def test_ranks_that_a_batch_feeds(batch_size: int, accumulation: int, gpus: int, ranks: int) -> None:
    assert replace(TRAINING, batch_size=batch_size, accumulation=accumulation).feeds(gpus) == ranks


def test_freed_ranks_are_as_many_as_gpus() -> None:
    assert time_of(TRAINING, CLUSTER, COSTS, Limits(ranks_of_recipe=False)).used == 8


def test_a_bucket_is_fetched_by_every_node() -> None:
    remote = replace(TRAINING, ranks=8, fetched=Storage(read=1e9, requests=10.0))
    usage = time_of(remote, CLUSTER, COSTS, Limits())
    assert (usage.read, usage.requests) == (4e9, 20.0)


def test_a_cluster_that_cannot_be() -> None:
    options = {"nodes": 1, "gpus_per_node": 8, "cores_per_node": None, "network_gbps": 100.0, "storage_gbps": 20.0}
    assert cluster_of(gpu="A100", **options).cores_per_node == 96  # type: ignore[arg-type]
    assert cluster_of(gpu=None, **{**options, "gpus_per_node": 0}).cores_per_node == 16  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"--gpus-per-node 8: give --gpu NAME \(T4, V100.*H200\)"):
        cluster_of(gpu=None, **options)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"--gpus-per-node -2: it must be 0 or above"):
        cluster_of(gpu="A100", **{**options, "gpus_per_node": -2})  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"--nodes 0: it must be above 0"):
        cluster_of(gpu="A100", **{**options, "nodes": 0})  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"--gpu h10: its speed is not known; did you mean H100\? allowed are T4, V100"):
        cluster_of(gpu="h10", **options)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"--storage-gbps inf"):
        cluster_of(gpu="A100", **{**options, "storage_gbps": float("inf")})  # type: ignore[arg-type]


def test_every_figure_says_how_it_is_known() -> None:
    costs = load_costs()
    assert all(figure.source and figure.basis and figure.unit for figure in costs.costs.values())
    assert "measured" not in {gpu.basis for gpu in costs.gpus.values()}, "none has been at hand"
    assert all(
        "tests/benchmarks/" in f.source or ".md" in f.source for f in costs.costs.values() if f.basis == "measured"
    )


@pytest.mark.parametrize("line", ["value = 0", 'basis = "guessed"', 'source = ""'])
def test_a_figure_without_a_source_is_refused(line: str) -> None:
    name = line.partition(" ")[0]
    table = {"value": "value = 1", "unit": 'unit = "s"', "basis": 'basis = "measured"', "source": 'source = "x"'}
    text = "\n".join(["[gpus]", "[costs.one]", *(table | {name: line}).values()])
    with pytest.raises(ValueError, match=r"costs\.one: a positive value, a unit, a basis of measured"):
        load_costs(text)
