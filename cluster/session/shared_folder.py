"""Whether the folder of runs is one folder on all nodes: the driver writes a file there, and the nodes look for it."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import ray

from cluster.session.ask_nodes import ask_nodes, node_name
from shards.file_system_errors import writing
from shards.layer import Layer

_SECONDS = 20.0
"""For nodes to answer. One that does not is asked again when its first worker has started."""
LATE_SECONDS = 60.0
"""How late a network file system may show a file that another node has written: the longest that NFS remembers by
default what a folder holds."""


class NotSharedError(RuntimeError):
    """Nodes do not have the same folder of runs; the message names both sides."""


class SharedFolder:
    """The folder of runs with a file of this driver in it, whose name nobody else can have."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.host = runs.absolute(), socket.gethostname()
        self.probe = self.runs / f".probe-{uuid.uuid4().hex}"
        with writing(self.probe):
            self.probe.touch()

    def require_on_nodes(self) -> None:
        """Ask all nodes that are up. Raises `NotSharedError` if one does not see the file."""
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        if not ray.util.client.ray.is_connected():
            nodes.pop(ray.get_runtime_context().get_node_id(), None)  # there the driver itself has written it
        answers, _ = ask_nodes(nodes, sees, str(self.probe), seconds=_SECONDS)
        blind = [node_name(nodes[node]) for node, seen in answers.items() if not seen]
        if blind:
            raise NotSharedError(self.fault(", ".join(sorted(blind))))

    def fault(self, where: str) -> str:
        """What is wrong if the file is not seen there, and what to do."""
        return (
            f"runtime.runs = {str(self.runs)!r} is not one folder on all nodes: {where} does not see what the driver "
            f"on {self.host} has written into it; mount the same file system there on every node, or set "
            "runtime.runs to a folder that all nodes share (wsss cluster check --running PLACE --runs FOLDER tries it)"
        )

    def close(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.probe.unlink()


def sees(probe: str) -> bool:
    """Called on a node; an empty name stands for no probe."""
    return not probe or Path(probe).exists()


def require_visible(layer: Layer, made_on: Mapping[str, str], runs: Path, *, seconds: float = LATE_SECONDS) -> None:
    """Raise `NotSharedError` if a shard is not in the layer that this process sees, though a worker has finished it.

    `made_on`: shard -> host of that worker.
    """
    end = time.monotonic() + seconds
    left = {shard for shard in made_on if not layer.is_finished(shard)}
    while left and time.monotonic() < end:
        time.sleep(min(1.0, seconds))
        left = {shard for shard in left if not layer.is_finished(shard)}
    if left:
        shard = min(left)
        raise NotSharedError(
            f"{len(left)} of {len(made_on)} finished shards are not to be seen by the driver on "
            f"{socket.gethostname()}: {made_on[shard]} has made {layer.tar_path(shard)}, which is not there; "
            f"runtime.runs = {str(runs)!r} must be one folder on all nodes: mount the same file system there"
        )
