"""What a lost rank and a lost host cost.

    .venv/bin/python -m tests.benchmarks.recovery

A Ray cluster of several raylets on this machine, one CPU each. A small training of two ranks saves a checkpoint every
50 steps. A rank is killed: seconds until the driver reports it, and from there to the first step after the checkpoint.
In a second training a raylet is killed with the rank on it; its start, from the call to its first step, is what a fresh
start takes on a cluster that has trained before. A map of 24 shards loses a raylet with one actor: shards begun twice.

Agreement: both trainings, of the same settings, end with the same weights. The ratio is the time of a fresh start ÷ the
time of a recovery. Both include the start of processes, torch and DeepSpeed.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray

from cluster.ray_runtime import RayRuntime
from tests.benchmarks.pool_stages import MarkedSleep, read_marks
from tests.cluster.small_cluster import patiently, small_cluster
from tests.cluster.tiny import TinyFit
from tests.cluster.tiny import instance_of as tiny_instance
from tests.wsss.layers import instance_of
from wsss.contract.failure import Failure
from wsss.contract.fit import weights_path
from wsss.contract.runtime import RuntimeSettings

CHECKPOINT_EVERY = 50
DETECTED_BAR, STEP_BAR = 10.0, 1.3


@dataclass
class Watched:
    """The times of a training, seen by its driver."""

    lose: Callable[[], None]
    """Called once, in the middle between two checkpoints."""
    begun: float = field(default_factory=time.monotonic)
    first_step: float = 0.0
    killed: float = 0.0
    detected: float = 0.0
    next_step: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def progress(self, step: float, num_steps: float, state: str) -> None:
        now = time.monotonic()
        if not state.startswith("epoch"):
            return
        self.first_step = self.first_step or now
        if not self.killed and step >= 1.5 * CHECKPOINT_EVERY:
            self.killed = now
            self.lose()
        elif self.detected and not self.next_step and step > CHECKPOINT_EVERY:
            self.next_step = now

    def on_restart(self, failure: Failure) -> None:
        self.detected = self.detected or time.monotonic()
        self.failures.append(failure)


def train(folder: Path, runtime: RayRuntime, lose: Callable[[], None]) -> Watched:
    """A training in which `lose` takes something away once."""
    folder.mkdir(parents=True)
    stage = TinyFit(
        world_size=2, batch_size=4, num_epochs=3, num_examples=400, slow=0.05, checkpoint_every=CHECKPOINT_EVERY
    )
    watched = Watched(lose)
    runtime.fit(tiny_instance(stage, folder), stage, watched.progress, on_restart=watched.on_restart)
    return watched


def ranks() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.name().startswith("ray::RayTrain")]


def kill_rank() -> None:
    ranks()[-1].kill()


def lost_shards(folder: Path, runtime: RayRuntime, lose: Callable[[], None]) -> int:
    """How many shards of a map were begun more than once, when `lose` takes a node with one actor away."""
    instance = instance_of(MarkedSleep(num_shards=24, per_shard=8, pause=0.1), folder)
    taken: list[bool] = []

    def progress(finished: float, total: float, state: str) -> None:
        if finished >= 6 and not taken:
            taken.append(True)
            lose()

    assert isinstance(instance.stage, MarkedSleep)
    runtime.map(instance, instance.stage, progress)
    begun = Counter(shard for marks in read_marks(instance.path).values() for what, shard, _ in marks)
    assert len(begun) == instance.stage.num_shards
    return sum(times - 1 for times in begun.values())


def measured(folder: Path) -> dict[str, Any]:
    with small_cluster(0, 1, 1, 1) as cluster:
        workers = list(cluster.worker_nodes)

        def lose_node_of_rank() -> None:
            parents = {one.ppid() for one in ranks()}
            node = next(node for node in workers if node.all_processes["raylet"][0].process.pid in parents)
            workers.remove(node)
            cluster.remove_node(node, allow_graceful=False)

        def lose_node() -> None:
            cluster.remove_node(workers.pop(), allow_graceful=False)

        runtime = RayRuntime(RuntimeSettings(runs=folder, num_actors=3), address=cluster.address)
        try:
            by_rank = train(folder / "rank", runtime, kill_rank)
            by_host = train(folder / "host", runtime, lose_node_of_rank)
            workers.append(patiently(lambda: cluster.add_node(num_cpus=1)))
            cluster.wait_for_nodes()
            twice = lost_shards(folder / "map", runtime, lose_node)
        finally:
            runtime.close()
            ray.shutdown()
    start = by_host.first_step - by_host.begun
    weights = [weights_path(tiny_instance(TinyFit(), folder / name)).read_bytes() for name in ("rank", "host")]
    return {
        "same weights": weights[0] == weights[1],
        "start": start,
        "detected": by_rank.detected - by_rank.killed,
        "next step": by_rank.next_step - by_rank.detected,
        "host detected": by_host.detected - by_host.killed,
        "host next step": by_host.next_step - by_host.detected,
        "steps done again": max(one.steps_redone for watched in (by_rank, by_host) for one in watched.failures),
        "shards begun twice": twice,
    }


def main() -> None:
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder))
    checks = {
        "seconds until a dead rank is reported": (found["detected"], DETECTED_BAR),
        "first new step after a dead rank / a start": (found["next step"] / found["start"], STEP_BAR),
        "steps done again, of an interval": (found["steps done again"], CHECKPOINT_EVERY),
        "shards begun twice after a lost host with one actor": (found["shards begun twice"], 1),
    }
    report = {
        "name": "recovery",
        "ratio": found["start"] / found["next step"],
        "agreement": found.pop("same weights"),
        "error": 0.0,
        "checks": {what: {"value": value, "bar": bar, "ok": value <= bar} for what, (value, bar) in checks.items()},
        "seconds": found,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
