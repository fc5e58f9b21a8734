"""RayRuntime: shards run in a pool of Ray actors, training ranks in Ray Train, on this machine or a cluster."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from cluster.actors.pool import ActorPool
from cluster.actors.shard_actor import ShardActor
from cluster.failures.object_store import put
from cluster.session.node_types import node_types
from cluster.session.ray_processes import end_session
from cluster.session.ray_session import connect, thread_environment
from cluster.session.room import demand_of, out_of_place, require_room_here, require_room_on
from cluster.session.same_code import own_identity
from cluster.session.shared_folder import SharedFolder, require_visible
from cluster.shard_work import pending_shards, publish_copy, remove_copies
from wsss.contract.counts import Counts
from wsss.contract.failure import OnRestart, ignore_restart
from wsss.contract.fit import Fit
from wsss.contract.resources import Resources
from wsss.contract.runtime import Progress
from wsss.contract.stage import Instance, Map, Outcome, Reduce

if TYPE_CHECKING:
    from wsss.contract.runtime import RuntimeSettings

START_SECONDS_HERE = 180.0
START_SECONDS_CLUSTER = 1200.0


class RayRuntime:
    """Implements `wsss.contract.runtime.Runtime`. Actors stay alive from one shard stage to the next."""

    def __init__(self, settings: RuntimeSettings, *, address: str | None) -> None:
        """Connect as `cluster.session.ray_session.connect` does. Several nodes must share `settings.runs`."""
        self._settings = settings
        self._address = address
        own_identity()  # before the files can change: workers are compared with it
        self._owns_session = connect(address)
        self._pool: ActorPool | None = None
        self._resources: Resources | None = None
        self._shared: SharedFolder | None = None

    def check(self, instances: Sequence[Instance]) -> None:
        """Raises ValueError for resources that are not here, and `NotSharedError` if nodes do not share the runs."""
        if not instances:
            return
        for line in self._require_room(instances):
            print(line, file=sys.stderr)
        if self._address is not None:
            self._shared = self._shared or SharedFolder(self._settings.runs)
            self._shared.require_on_nodes()

    def map(
        self, instance: Instance, stage: Map, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> None:
        pending, total = pending_shards(instance, stage)
        finished = total - len(pending)

        made_on: dict[str, str] = {}

        def done(shard: str, host: str | None) -> None:
            nonlocal finished
            finished += 1
            if host is not None:  # None: this process has moved a copy to its place
                made_on[shard] = host
            progress(finished, total, f"{finished} of {total} shards")

        if pending:
            progress(finished, total, f"{finished} of {total} shards")
            known = [put(instance)]
            try:
                self._actors(instance).run(
                    pending,
                    submit=lambda actor, task: actor.make.remote(known, task),
                    done=done,
                    folder=instance.path,
                    on_restart=on_restart,
                    on_state=lambda state: progress(finished, total, _joined(f"{finished} of {total} shards", state)),
                    publish=lambda shard: publish_copy(instance, shard),
                    may_set_aside=True,
                )
            finally:
                remove_copies(instance)
            if self._address is not None:
                require_visible(instance.layer, made_on, self._settings.runs)

    def reduce(
        self, instance: Instance, stage: Reduce, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Counts:
        shards = stage.shards(instance)
        counts = Counts()
        finished = 0

        def done(shard: str, result: Counts) -> None:
            nonlocal counts, finished
            counts += result
            finished += 1
            progress(finished, len(shards), f"{finished} of {len(shards)} shards")

        progress(0, len(shards), f"0 of {len(shards)} shards")
        known = [put(instance)]
        self._actors(instance).run(
            shards,
            submit=lambda actor, task: actor.count.remote(known, task.shard),
            done=done,
            folder=instance.path,
            on_restart=on_restart,
            on_state=lambda state: progress(
                finished, len(shards), _joined(f"{finished} of {len(shards)} shards", state)
            ),
        )
        return counts

    def fit(
        self, instance: Instance, stage: Fit, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Outcome:
        from cluster.ranks.ray_fit import fit_with_ray_train  # Ray Train imports pandas and pyarrow

        # Idle actors would hold the CPUs that the ranks need.
        self._release_actors()
        here = self._address is None
        self._require_room([instance])
        return fit_with_ray_train(
            instance, stage, self._settings, progress, here=here, on_restart=on_restart, shared=self._shared
        )

    def release(self) -> None:
        self._release_actors()

    def close(self) -> None:
        self._release_actors()
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        if self._owns_session:
            end_session()
            self._owns_session = False

    def _release_actors(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _actors(self, instance: Instance) -> ActorPool:
        """The pool of actors with the resources of an instance. Others are released: idle ones would hold GPUs."""
        resources = self._settings.resources_of(instance)
        self._require_room([instance])
        if resources != self._resources:
            self._release_actors()
        self._resources = resources
        if self._pool is None:
            here = self._owns_session and self._address is None
            self._pool = ActorPool(
                partial(self._make_actor, resources),
                size=self._num_actors(resources),
                start_seconds=START_SECONDS_HERE if here else START_SECONDS_CLUSTER,
                shard_seconds=self._settings.shard_seconds,
                needs={"CPU": resources.actor_cpus, "GPU": resources.actor_gpus},
                shared=self._shared,
            )
        return self._pool

    def _require_room(self, instances: Sequence[Instance]) -> list[str]:
        """Refuse instances whose workers will never fit; returns what is waited for, in words."""
        demands = [demand_of(instance, self._settings) for instance in instances]
        if self._address is None:
            require_room_here(demands, ray.cluster_resources())
            return []
        nodes = [node for node in ray.nodes() if node["Alive"]]
        there = [node["Resources"] for node in nodes]
        if not out_of_place(demands, there):
            return []
        return require_room_on(demands, there, node_types(nodes))

    def _num_actors(self, resources: Resources) -> int:
        """The setting, or as many as fit into the cluster now; at least one, so that an autoscaler sees a demand."""
        found = ray.cluster_resources()
        if resources.num_actors:
            return resources.num_actors
        num_fitting = found.get("CPU", 0.0) / resources.actor_cpus
        if resources.actor_gpus:
            num_fitting = min(num_fitting, found.get("GPU", 0.0) / resources.actor_gpus)
        return max(1, math.floor(num_fitting))

    def _make_actor(self, resources: Resources) -> Any:
        settings, threads = self._settings, self._settings.threads
        options = {"num_cpus": resources.actor_cpus, "num_gpus": resources.actor_gpus, "max_restarts": 0}
        environment = thread_environment(threads)
        return (
            ray.remote(ShardActor)
            .options(**options, runtime_env=environment)
            .remote(
                threads=threads,
                gpus=resources.actor_gpus,
                cpus=resources.actor_cpus,
                shard_seconds=settings.shard_seconds,
                own_process=True,
            )
        )


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
