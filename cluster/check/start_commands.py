"""Checks of the commands that start Ray: token, ports, dashboard, open files, session folder."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.check.cluster_file import ClusterFile
from cluster.check.findings import Finding

_ENVIRONMENT = "cluster/node_environment.sh"
PORTS = (
    "--object-manager-port",
    "--node-manager-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--metrics-export-port",
    "--min-worker-port",
    "--max-worker-port",
)
"""Options of `ray start` without which Ray takes a random port on every node."""
HEAD_PORTS = ("--port", "--dashboard-port", "--ray-client-server-port")
OPEN_FILES = 8192
"""Fewer open files are used up by a few dozen actors and their sockets."""


def check(file: ClusterFile) -> Iterator[Finding]:
    """The last command of each list that calls `ray start`."""
    for name, is_head in (("head_start_ray_commands", True), ("worker_start_ray_commands", False)):
        for number, command in enumerate(file.commands(name)):
            if re.search(r"\bray start\b", command):
                yield from _start(file.where(name, number), command, is_head=is_head)
                yield from _container(file, command)
                break
        else:
            yield Finding(file.where(name), "does not call `ray start`")


def _start(where: str, command: str, *, is_head: bool) -> Iterator[Finding]:
    before = command.partition("ray start")[0]
    sourced = _ENVIRONMENT in before
    if not sourced and "RAY_AUTH_MODE=token" not in before:
        yield Finding(
            where,
            "a node without a token runs code for everybody who reaches it; put "
            "`. ~/wsss/cluster/node_environment.sh;` before `ray start`, or export RAY_AUTH_MODE=token",
        )
    if not sourced and "RAY_TMPDIR" not in before and "--temp-dir" not in command:
        yield Finding(
            where,
            "Ray's session folder would be below /tmp, where every user of the machine can write into it; put "
            "`. ~/wsss/cluster/node_environment.sh;` before `ray start`",
        )
    missing = [port for port in (*PORTS, *(HEAD_PORTS if is_head else ())) if not _option(command, port)]
    if missing:
        yield Finding(
            where,
            f"these ports are random, so that no firewall can admit them: {', '.join(missing)}; fix them as "
            "ray_cluster.yaml does",
        )
    limits = [int(number) for number in re.findall(r"ulimit -n (\d+)", before)]
    if not limits or max(limits) < OPEN_FILES:
        yield Finding(where, f"the limit of open files is not raised; put `ulimit -n 65536;` (at least {OPEN_FILES})")
    if is_head:
        host = _option(command, "--dashboard-host") or "127.0.0.1"
        if host not in ("127.0.0.1", "localhost", "::1"):
            yield Finding(
                where, f"--dashboard-host={host}: the dashboard runs code; use 127.0.0.1 and a tunnel (ray dashboard)"
            )
        if "--autoscaling-config" not in command:
            yield Finding(where, "no worker is started without --autoscaling-config=~/ray_bootstrap_config.yaml")


def _container(file: ClusterFile, command: str) -> Iterator[Finding]:
    """What a container needs from its machine: the shared folder, and the limit of open files."""
    if not file.docker:
        return
    options = " ".join(str(option) for option in file.docker.get("run_options") or [])
    if "nofile" not in options:
        yield Finding(
            file.where("docker", "run_options"),
            "a container cannot raise its limit of open files by itself; add --ulimit nofile=65536:65536",
        )
    if runs := _option(command, "--runs"):
        mounted = re.findall(r"(?:-v|--volume)[= ]\S+?:([^:\s]+)", options)
        if not any(f"{runs}/".startswith(f"{folder.rstrip('/')}/") for folder in mounted):
            yield Finding(
                file.where("docker", "run_options"),
                f"the runs are in {runs}, which the container does not share with its machine "
                f"(docker.run_options mounts {', '.join(mounted) or 'nothing'}): results would be lost with the node. "
                f"Add -v {runs}:{runs}, a folder of the shared file system",
            )


def _option(command: str, name: str) -> str:
    found = re.search(rf"(?<!\S){re.escape(name)}[= ](\S+)", command)
    return found[1] if found else ""
