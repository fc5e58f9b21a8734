"""A cluster, and the time that work takes on it: the time each resource would need alone, and the bottleneck.

Only what the program overlaps is assumed to overlap. An actor reads, computes and writes one image after the other. A
training step waits for its loader if the loader has no processes of its own; gradients are exchanged after the backward
pass. Storage is one folder shared by all nodes; reading and writing it overlaps with computation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from wsss.contract.cost import FitWork, Load, ShardWork, Work
from wsss.plan.costs import BASES, Basis, Costs, Gpu, PlanError, core_seconds, load_costs
from wsss.plan.measured import Measured

GPU, DECODE, CPU, STORAGE, NETWORK = "GPU", "CPU decode", "CPU work", "storage", "network"
START, DRIVER, VALIDATION = "start-up", "driver", "validation"
CORES_PER_GPU, CORES_ALONE = 12, 16
"""Default number of cores: per GPU, and of a node without GPUs (assumed)."""
_BYTES = frozenset({"image_bytes", "mask_bytes", "map_bytes", "record_bytes"})


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The hardware. Without GPUs, networks run on cores."""

    nodes: int
    gpus_per_node: int
    gpu: Gpu | None
    cores_per_node: int
    network_gbps: float
    """Gbit/s between a node and the others."""
    storage_gbps: float
    """Gbit/s of the shared folder, all nodes together."""

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def cores(self) -> int:
        return self.nodes * self.cores_per_node

    @property
    def places(self) -> int:
        """Maximum number of training ranks, each with its own device."""
        return self.gpus or self.cores

    def scaled_to(self, gpus: int) -> Cluster:
        """As many of these nodes as needed for a number of GPUs (or cores, if there are no GPUs)."""
        per_node = self.gpus_per_node or self.cores_per_node
        return replace(self, nodes=-(-gpus // per_node))


def cluster_of(
    *,
    nodes: int,
    gpus_per_node: int,
    gpu: str | None,
    cores_per_node: int | None,
    network_gbps: float,
    storage_gbps: float,
) -> Cluster:
    """A cluster from command line options. Raises: `PlanError` for invalid values, naming the option."""
    if gpus_per_node < 0:
        raise PlanError(f"--gpus-per-node {gpus_per_node}: it must be 0 or above")
    cores = CORES_PER_GPU * gpus_per_node or CORES_ALONE
    given = {"nodes": nodes, "cores-per-node": cores if cores_per_node is None else cores_per_node}
    for name, value in {**given, "network-gbps": network_gbps, "storage-gbps": storage_gbps}.items():
        if not 0 < value < math.inf:
            raise PlanError(f"--{name} {value}: it must be above 0")
    if gpus_per_node > 0 and gpu is None:
        raise PlanError(
            f"--gpus-per-node {gpus_per_node}: give --gpu NAME ({', '.join(load_costs().gpus)}), or --gpus-per-node 0"
        )
    return Cluster(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        gpu=load_costs().gpu(gpu) if gpu is not None and gpus_per_node else None,
        cores_per_node=given["cores-per-node"],
        network_gbps=network_gbps,
        storage_gbps=storage_gbps,
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of a cluster the recipe allows to be used."""

    actor_gpus: float = 1.0
    """GPUs of an actor of a stage with a network."""
    actor_cpus: float = 1.0
    """Cores of an actor."""
    num_actors: int = 0
    """0: one per GPU share, or per core."""
    ranks_of_recipe: bool = True
    """World size of the recipe; otherwise as many ranks as there are GPUs and a batch can be divided among."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The resources that a stage uses."""

    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    """Resource -> seconds that it would need if all other resources took no time."""
    used: int = 0
    """Ranks or actors in use."""
    held: int = 0
    """Ranks or actors that the cluster has capacity for."""
    gpus: float = 0.0
    """GPUs that it holds."""
    cores: float = 0.0
    """Cores that it holds."""
    core_seconds: float = 0.0
    """Busy core seconds."""
    read: float = 0.0
    written: float = 0.0
    exchanged: float = 0.0
    """Bytes of gradients exchanged between nodes, summed over nodes."""
    requests: float = 0.0
    behind: dict[str, frozenset[str]] = field(default_factory=dict)
    """Resource -> names of the costs that its seconds are computed from."""

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def time_of(
    work: Work,
    cluster: Cluster,
    costs: Costs,
    limits: Limits,
    *,
    measured: Measured | None = None,
    stated: bool = True,
) -> Usage:
    """Time and resource usage of one stage on a cluster.

    `measured`: replaces the per-image and fixed cost figures. `stated`: whether `work` comes from the stage's `cost`
    method, or only from the records that it reads and writes.
    """
    if isinstance(work, FitWork):
        return _fit_time(work, cluster, costs, limits, measured)
    return _shard_time(work, cluster, costs, limits, measured, stated=stated)


def device_seconds(load: Load, costs: Costs, gpu: Gpu | None, *, precision: str = "fp32") -> float:
    """Seconds of one GPU, or of one core, for networks and array operations.

    GPU: max(operations / (peak x fraction reached), passes x seconds of a pass) + array operations, whose time on a
    core is scaled by memory bandwidth. Core: measured operations / s, and measured array operations.
    """
    arrays = core_seconds(load.arrays, costs)
    if gpu is None:
        return load.flops / costs["core_flops"] + arrays
    network = max(load.flops / gpu.flops(precision), load.passes * costs["pass_seconds"])
    return network + arrays * costs["core_bandwidth"] / (gpu.bandwidth * costs["array_use"])


def _shard_time(
    work: ShardWork, cluster: Cluster, costs: Costs, limits: Limits, measured: Measured | None, *, stated: bool
) -> Usage:
    on_gpu = work.has_network and cluster.gpus > 0
    on_cores = math.floor(cluster.cores / limits.actor_cpus)
    room = math.floor(cluster.gpus / limits.actor_gpus) if on_gpu else on_cores
    actors = max(1, min(room, on_cores, limits.num_actors or room))
    host = core_seconds(work.load.core, costs)
    device = device_seconds(work.load, costs, cluster.gpu if on_gpu else None) if work.has_network else 0.0
    start, driver = costs["start_actor"], core_seconds(work.driver, costs)
    if measured is not None:
        host, device = (0.0, measured.seconds) if on_gpu else (measured.seconds, 0.0)
        start, driver = measured.start, measured.driver_seconds(work, stated=stated)
    # In the last round, some actors may have no shard.
    rounds = -(-work.shards // actors) if work.shards else 0
    in_turn = rounds * work.images / max(work.shards, 1) * (host + device)
    shared = work.images * device / cluster.gpus if on_gpu else 0.0  # actors sharing a GPU wait for each other
    storage = work.storage
    moved = 8 * (storage.read + storage.written)
    parts = {
        GPU if on_gpu and device > host else CPU: max(in_turn, shared),
        STORAGE: moved / (cluster.storage_gbps * 1e9),
        NETWORK: moved / (cluster.nodes * cluster.network_gbps * 1e9),
        START: start,
        DRIVER: driver,
    }
    return Usage(
        seconds=max(in_turn, shared, parts[STORAGE], parts[NETWORK]) + parts[START] + parts[DRIVER],
        parts=parts,
        used=min(actors, work.shards),
        held=room,
        gpus=min(actors * limits.actor_gpus, cluster.gpus) if on_gpu else 0.0,
        cores=actors * limits.actor_cpus,
        core_seconds=work.images * (host + (0.0 if on_gpu else device)) + parts[DRIVER],
        read=storage.read,
        written=storage.written,
        requests=storage.requests,
        behind=_shard_figures(work, GPU if on_gpu and device > host else CPU, on_gpu=on_gpu, measured=measured),
    )


def _shard_figures(
    work: ShardWork, device: str, *, on_gpu: bool, measured: Measured | None
) -> dict[str, frozenset[str]]:
    """Resource -> names of the figures of `costs.toml` behind its seconds."""
    moved: dict[str, frozenset[str]] = dict.fromkeys((STORAGE, NETWORK), _BYTES)
    if measured is not None:
        return moved
    return {
        device: frozenset(work.load.core) | _device_costs(work.load, on_gpu=on_gpu),
        START: frozenset({"start_actor"}),
        DRIVER: frozenset(work.driver),
    } | moved


def _fit_time(work: FitWork, cluster: Cluster, costs: Costs, limits: Limits, measured: Measured | None) -> Usage:
    ranks = work.ranks if limits.ranks_of_recipe else work.feeds(cluster.places)
    on_gpu = cluster.gpus > 0
    nodes = min(cluster.nodes, -(-ranks // (cluster.gpus_per_node or cluster.cores_per_node)))
    loader, compute = _step_seconds(work, cluster, costs, measured, ranks=ranks, nodes=nodes)
    # Ring all-reduce: every node sends and receives (n - 1) / n of the gradients twice. Traffic inside a node is free.
    exchange = 2 * (nodes - 1) / nodes * 8 * work.exchanged / (cluster.network_gbps * 1e9)
    step = max(loader, compute + exchange) if work.loader_workers else loader + compute + exchange
    read, requests = (a + nodes * b for a, b in _both(work))
    moved = 8 * (read + work.storage.written)
    received = moved / (nodes * cluster.network_gbps * 1e9)
    start, validation = _fixed_seconds(work, cluster, costs, measured)
    parts = {
        GPU if on_gpu else CPU: work.steps * compute,
        DECODE: work.steps * loader,
        NETWORK: work.steps * exchange + received,
        STORAGE: moved / (cluster.storage_gbps * 1e9),
        START: start,
        VALIDATION: validation,
    }
    return Usage(
        seconds=max(work.steps * step, received, parts[STORAGE]) + parts[START] + parts[VALIDATION],
        parts=parts,
        used=ranks,
        held=cluster.places,
        gpus=float(ranks) if on_gpu else 0.0,
        cores=float(ranks * max(1, work.loader_workers)),
        core_seconds=(0.0 if measured else work.steps * work.batch_size * core_seconds(work.load.core, costs))
        + ranks * parts[START]
        + (0.0 if on_gpu else work.steps * ranks * compute),
        read=read,
        written=work.storage.written,
        exchanged=work.steps * 2.0 * (nodes - 1) * work.exchanged,
        requests=requests,
        behind=_fit_figures(work, on_gpu=on_gpu, measured=measured),
    )


def _step_seconds(
    work: FitWork, cluster: Cluster, costs: Costs, measured: Measured | None, *, ranks: int, nodes: int
) -> tuple[float, float]:
    """Seconds of one step of one rank in its loader and in the network; a measured time includes both."""
    share = work.batch_size / ranks
    if measured is not None:
        return 0.0, share * measured.seconds
    loader = share * core_seconds(work.load.core, costs) / _loader_cores(work, cluster, ranks=ranks, nodes=nodes)
    part = replace(work.load * (share / work.accumulation), passes=work.load.passes)
    gpu = cluster.gpu if cluster.gpus > 0 else None
    return loader, work.accumulation * device_seconds(part, costs, gpu, precision=work.precision)


def _fixed_seconds(work: FitWork, cluster: Cluster, costs: Costs, measured: Measured | None) -> tuple[float, float]:
    """Seconds of start-up and of all validations; a measured run also scales validation."""
    gpu = cluster.gpu if cluster.gpus > 0 else None
    validation = device_seconds(work.validation, costs, gpu) + core_seconds(work.validation.core, costs)
    if measured is None:
        return core_seconds(work.start, costs), validation
    if not validation:
        return measured.start, 0.0
    example = core_seconds(work.load.core, costs) + device_seconds(work.load, costs, gpu, precision=work.precision)
    return measured.start, validation * measured.seconds / example


def _fit_figures(work: FitWork, *, on_gpu: bool, measured: Measured | None) -> dict[str, frozenset[str]]:
    """Resource -> names of the figures of `costs.toml` behind its seconds."""
    moved: dict[str, frozenset[str]] = dict.fromkeys((STORAGE, NETWORK), _BYTES | {"weight_bytes"})
    validation = frozenset(work.validation.names) | _device_costs(work.validation, on_gpu=on_gpu)
    if measured is not None:
        return {VALIDATION: validation} | moved
    return {
        GPU if on_gpu else CPU: _device_costs(work.load, on_gpu=on_gpu),
        DECODE: frozenset(work.load.core),
        START: frozenset(work.start),
        VALIDATION: validation,
    } | moved


def _both(work: FitWork) -> tuple[tuple[float, float], tuple[float, float]]:
    """(total, per node) of bytes, and of requests."""
    return (work.storage.read, work.fetched.read), (work.storage.requests, work.fetched.requests)


def _loader_cores(work: FitWork, cluster: Cluster, *, ranks: int, nodes: int) -> float:
    """Cores that load one rank's examples: the main process, or its loader processes, limited by the cores per rank."""
    on_a_node = -(-ranks // nodes)
    return min(max(work.loader_workers, 1), cluster.cores_per_node / on_a_node)


def _device_costs(load: Load, *, on_gpu: bool) -> frozenset[str]:
    """Names of the costs that the time of networks and arrays is computed from."""
    names = set(load.arrays)
    if not on_gpu:
        return frozenset(names | ({"core_flops"} if load.flops else set()))
    names |= {"core_bandwidth", "array_use"} if load.arrays else set()
    return frozenset(names | ({"pass_seconds"} if load.passes else set()))


def basis_of(usage: Usage, costs: Costs, gpu: Gpu | None) -> Basis:
    """The basis of the bottleneck's time: that of the least reliable figure used.

    Values given by the user (storage, network) count as measured.
    """
    behind = usage.behind.get(usage.bound, frozenset())
    found = [costs.costs[name].basis for name in behind]
    if gpu is not None and "pass_seconds" in behind:
        found.append(gpu.basis)
    return max(found, key=BASES.index, default="measured")
