"""The kinds of nodes that a cluster's autoscaler can start: from the file on the head that `ray up` gave it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.experimental.internal_kv import _internal_kv_get

from cluster.session.ask_nodes import ask_nodes
from cluster.session.room import NodeType

CONFIG = "~/ray_bootstrap_config.yaml"
"""Where `ray up` puts the cluster file on the head."""
_HEAD = "node:__internal_head__"
_SECONDS = 20.0
_KUBERAY = "KUBERAY_GEN_RAY_START_CMD"
"""KubeRay's variable in its pods; its autoscaler runs in a container of its own, whose kinds of nodes are not known."""


def node_types(nodes: Sequence[Mapping[str, Any]]) -> list[NodeType] | None:
    """What the autoscaler can start; empty if there is none, None if that cannot be found out.

    `nodes`: those that are up, as `ray.nodes()` returns them.
    """
    heads = [node["NodeID"] for node in nodes if _HEAD in node["Resources"]]
    answers, _ = ask_nodes(heads, on_head, seconds=_SECONDS)
    for known in answers.values():
        if known == _KUBERAY:
            return None
        if known:
            return types_of(known)
    return [] if answers and _only_watches() else None


def on_head() -> dict[str, Any] | str | None:
    """Called on the head: the cluster file that `ray up` put there; or that KubeRay started it."""
    import yaml

    if _KUBERAY in os.environ:
        return _KUBERAY
    try:
        found = yaml.safe_load(Path(CONFIG).expanduser().read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) else None


def types_of(config: Mapping[str, Any]) -> list[NodeType]:
    """The kinds of workers of a cluster file; the head is there already."""
    most, found = config.get("max_workers", 0), []
    for name, kind in (config.get("available_node_types") or {}).items():
        own = kind.get("max_workers", most)
        if own and (name != config.get("head_node_type") or kind.get("max_workers")):
            found.append(NodeType(name, kind.get("resources") or {}, min(own, most) if most else own))
    return found


def _only_watches() -> bool:
    """True if Ray's monitor has no cluster file: it then names the kind of every node after the node."""
    if ray.util.client.ray.is_connected():
        return False
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    report = status.get("autoscaler_report") or {}
    names = [*(report.get("active_nodes") or {}), *(report.get("idle_nodes") or {})]
    return bool(names) and all(name.startswith("node_") for name in names)
