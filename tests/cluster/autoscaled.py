"""A cluster with Ray's autoscaler and its own fake nodes, on which stages with and without GPUs run; prints JSON.

    unshare --net --pid --fork --mount-proc --kill-child python -m tests.cluster.autoscaled FOLDER [held]

It must have namespaces of its own: its ports are Ray's usual ones, and its processes end with it. The head has no GPU;
a type of worker has one. Fake nodes only claim to have GPUs, so actors hold them without computing on them. With
`held`, the stage on CPUs holds GPUs too: the control.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

ADDRESS, TOKEN = "127.0.0.1:6379", "RAY_AUTH_MODE"
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""Ray's own name for the head of fake nodes (`ray.autoscaler._private.fake_multi_node.node_provider`)."""
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
IDLE_SECONDS, STAGE_SECONDS = 6.0, 30.0
CONFIG: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": IDLE_SECONDS / 60,
    "upscaling_speed": 1.0,
    # By its class, because Ray's wheel lacks a file that its own name for the provider needs.
    "provider": {"type": "external", "module": PROVIDER, "head_node_id": HEAD_ID, "launch_multiple": True},
    "auth": {},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    },
    "head_node_type": "ray.head.default",
    "docker": {},
    "setup_commands": [],
    "initialization_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}


def start(folder: Path) -> None:
    """Start the head with its autoscaler."""
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG))
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1"}
    os.environ.update({**fake, TOKEN: "disabled", "RAY_USAGE_STATS_ENABLED": "0"})
    ids = {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
    options = [f"--autoscaling-config={config}", "--num-cpus=2", "--num-gpus=0", f"--temp-dir={folder / 'r'}"]
    options += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--object-store-memory=100000000"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", *options]
    subprocess.run(command, env={**os.environ, **ids}, check=True, stdout=subprocess.DEVNULL)


class Watch:
    """What the autoscaler reports, once a second: nodes with a GPU, and pending demand for GPUs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.stage = "before"
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        from ray.autoscaler.v2.sdk import get_cluster_status

        while True:
            status = get_cluster_status(ADDRESS)
            nodes = [*status.active_nodes, *status.idle_nodes]
            demand = [
                bundle.bundle.get("GPU", 0.0) * bundle.count
                for pending in (
                    status.resource_demands.ray_task_actor_demand,
                    status.resource_demands.placement_group_demand,
                )
                for one in pending
                for bundle in one.bundles_by_count
            ]
            found = {"nodes": sum(node.ray_node_type_name == "gpu" for node in nodes), "demand": sum(demand)}
            self.rows.append({**found, "stage": self.stage, "at": time.monotonic()})  # type: ignore[dict-item]
            time.sleep(1.0)


def main(folder: Path, *, held: bool) -> None:
    start(folder)
    import ray

    from cluster.actors.shard_actor import ShardActor
    from cluster.ray_runtime import RayRuntime
    from cluster.session.ray_session import thread_environment
    from tests.cluster.tiny import TinyMap, TorchMap, instance_of
    from wsss.contract.resources import Resources
    from wsss.contract.runtime import RuntimeSettings

    class Pretending(RayRuntime):
        """Its actors hold GPUs, but there is none that they could compute on."""

        def _make_actor(self, resources: Resources) -> Any:
            options = {"num_cpus": resources.actor_cpus, "num_gpus": resources.actor_gpus, "max_restarts": 0}
            made = partial(ray.remote(ShardActor).options(**options, runtime_env=thread_environment(1)).remote)
            return made(threads=1, gpus=0.0, shard_seconds=0.0, own_process=True)

    ray.init(address=ADDRESS, log_to_driver=False, logging_level="ERROR")
    runtime = Pretending(RuntimeSettings(num_actors=1, actor_gpus=1), address=ADDRESS)
    watch, seconds = Watch(), {}

    def run(name: str, stage: TinyMap) -> None:
        instance = instance_of(stage, folder / name)
        instance.path.mkdir(exist_ok=True)
        watch.stage = name
        begun = time.monotonic()
        runtime.map(instance, stage, lambda *_: None)
        seconds[name] = time.monotonic() - begun
        watch.stage = name if name == "cpu" else "between"

    run("gpu", TorchMap())
    on_cores: TinyMap = (TorchMap if held else TinyMap)(wait_in="train-000002")
    (folder / "cpu").mkdir()
    go = threading.Timer(STAGE_SECONDS, (folder / "cpu" / "go").touch)
    go.start()
    run("cpu", on_cores)
    print(json.dumps({"rows": watch.rows, "seconds": seconds}), flush=True)
    os._exit(0)  # the namespace ends with this process, and everything in it


if __name__ == "__main__":
    main(Path(sys.argv[1]), held="held" in sys.argv[2:])
