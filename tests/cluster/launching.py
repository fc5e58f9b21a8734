"""Ray's own cluster launcher and autoscalers, driven on a cluster file; only what calls ssh is replaced."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from ray.autoscaler._private.autoscaler import StandardAutoscaler
from ray.autoscaler._private.load_metrics import LoadMetrics
from ray.autoscaler._private.local.node_provider import LocalNodeProvider, record_local_head_state_if_needed
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind


class Ssh:
    """Stands for the module `subprocess` at the point where Ray calls ssh and rsync; keeps their words."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._lock = threading.Lock()

    def check_call(self, words: list[str], *arguments: object, **options: object) -> int:
        with self._lock:
            self.calls.append(" ".join(words))
        return 0

    def check_output(self, words: list[str], *arguments: object, **options: object) -> bytes:
        self.check_call(words)
        call = words[-1]
        if "inspect" in call and "Config.Env" in call:
            return b'["HOME=/home/ray"]'
        if "docker exec" in call or "printenv" in call:
            return b"/home/ray"
        return b"docker" if "command -v" in call else b""

    def commands(self, part: str) -> list[str]:
        return [call for call in self.calls if part in call]


class OneNode(NodeProvider):
    """A provider with one node that exists already."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self.tags: dict[str, str] = {}

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self.tags

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self.tags.update(tags)

    def is_terminated(self, node_id: str) -> bool:
        return False

    def internal_ip(self, node_id: str) -> str:
        return "10.0.0.9"


def at_the_head(path: Path, folder: Path) -> dict[str, Any]:
    """The file as the head node reads it: with paths that exist, as `ray up` rewrites file_mounts and the key."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    for remote in config["file_mounts"]:
        local = folder / remote.removeprefix("~/")
        local.mkdir(parents=True, exist_ok=True)
        config["file_mounts"][remote] = str(local)
    key = folder / "key.pem"
    key.touch()
    config["auth"]["ssh_private_key"] = str(key)
    return config


def install_worker(config: dict[str, Any], node_type: str) -> Ssh:
    """What the autoscaler v2 does with a new instance of a type. Raises what Ray raises."""
    scaling, ssh = AutoscalingConfig(json.loads(json.dumps(config))), Ssh()
    provider = OneNode(scaling.get_provider_config(), config["cluster_name"])
    RayInstaller(provider, scaling, process_runner=ssh).install_ray(
        Instance(instance_id="one", instance_type=node_type, cloud_instance_id="i-1"), "10.0.0.1"
    )
    assert provider.tags[TAG_RAY_NODE_STATUS] == "up-to-date"
    return ssh


def workers_by_v1(config: dict[str, Any], state_folder: Path) -> tuple[list[str], Ssh]:
    """Own machines: the addresses that the autoscaler v1 starts without any work waiting, and its commands."""
    ssh, prepared = Ssh(), prepare_config(config)
    with mock.patch.dict(os.environ, {"RAY_TMPDIR": str(state_folder)}):
        provider = LocalNodeProvider(prepared["provider"], prepared["cluster_name"])
        record_local_head_state_if_needed(provider)
        scaler = StandardAutoscaler(
            lambda: json.loads(json.dumps(prepared)),
            LoadMetrics(),
            mock.Mock(),
            process_runner=ssh,
            update_interval_s=0,
        )
        for _ in range(20):
            scaler.update()
            running = provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_WORKER})
            done = [node for node in running if provider.node_tags(node).get(TAG_RAY_NODE_STATUS) == "up-to-date"]
            if len(done) >= len(config["provider"]["worker_ips"]):
                break
            time.sleep(0.2)
    return done, ssh


def workers_by_v2(config: dict[str, Any]) -> int:
    """Own machines: the number of workers that the autoscaler v2 asks for without any work waiting."""
    scaling = AutoscalingConfig(json.loads(json.dumps(config)), skip_content_hash=True)
    head = Instance(
        instance_id="head",
        instance_type=scaling.get_head_node_type(),
        cloud_instance_id=config["provider"]["head_ip"],
        status=Instance.RAY_INSTALLING,
        node_kind=NodeKind.HEAD,
    )
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=scaling.get_node_type_configs(),
            max_num_nodes=scaling.get_max_num_nodes(),
            current_instances=[AutoscalerInstance(im_instance=head)],
        )
    )
    return sum(request.count for request in reply.to_launch)
