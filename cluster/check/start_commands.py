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
    """The command of each list that calls `ray start`, and what both must say alike."""
    found: dict[str, str] = {}
    for name, is_head in (("head_start_ray_commands", True), ("worker_start_ray_commands", False)):
        for number, command in enumerate(file.commands(name)):
            if re.search(r"\bray start\b", command):
                where = file.where(name, number)
                yield from _start(where, command, is_head=is_head)
                yield from _ports(where, command, is_head=is_head)
                yield from _own_check(where, command)
                yield from _container(file, command)
                found[name] = command
                break
        else:
            yield Finding(file.where(name), "does not call `ray start`")
    if len(found) == 2:
        yield from _alike(file.where("worker_start_ray_commands"), *found.values())


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


def _ports(where: str, command: str, *, is_head: bool) -> Iterator[Finding]:
    """All ports are fixed, possible and different."""
    names = (*PORTS, *(HEAD_PORTS if is_head else ()))
    given = {name: _option(_ray_start(command), name) for name in names}
    if missing := [name for name, port in given.items() if port in ("", "0")]:
        yield Finding(
            where,
            f"these ports are random, so that no firewall can admit them: {', '.join(missing)}; fix them as "
            "ray_cluster.yaml does (0 stands for a random port)",
        )
    for name, port in given.items():
        if port and not (port.isdecimal() and int(port) <= 65535) and not port.startswith("$"):
            yield Finding(where, f"{name}={port} is no port; allowed are 1 to 65535")
    ports = {name: int(port) for name, port in given.items() if port.isdecimal() and 1 <= int(port) <= 65535}
    first, last = ports.pop("--min-worker-port", 0), ports.pop("--max-worker-port", 0)
    if first and last and first > last:
        yield Finding(where, f"--min-worker-port={first} is above --max-worker-port={last}")
    holders: dict[int, str] = {}
    for name, number in ports.items():
        if first <= number <= last:
            yield Finding(
                where, f"{name}={number} is one of the workers' ports, {first} to {last}; take one outside of them"
            )
        if number in holders:
            yield Finding(where, f"{holders[number]} and {name} have the same port {number}; each needs its own")
        holders[number] = name


def _own_check(where: str, command: str) -> Iterator[Finding]:
    """The node's own check comes before `ray start`, and looks at the shared folder."""
    found = re.search(r"wsss cluster check --here\b([^&;|]*)", command.partition("ray start")[0])
    if found is None:
        yield Finding(
            where,
            "does not check the node: one without a GPU driver or the shared folder joins, and fails at work. Put "
            "`wsss cluster check --here --runs FOLDER &&` before `ray start`; FOLDER is the folder of runs",
            refused=False,
        )
    elif "--runs" not in found[1]:
        yield Finding(
            where, "does not check the shared folder: write `wsss cluster check --here --runs FOLDER`", refused=False
        )


def _alike(where: str, head: str, worker: str) -> Iterator[Finding]:
    port, address = _option(_ray_start(head), "--port") or "6379", _option(_ray_start(worker), "--address")
    if not address:
        yield Finding(where, f"does not say where the head is; write ray start --address=$RAY_HEAD_IP:{port}")
    elif (asked := address.strip("'\"").rpartition(":")[2]).isdecimal() and asked != port:
        yield Finding(where, f"--address={address}, but the head listens at port {port} (--port); use one port")
    of_head, of_worker = _option(head, "--runs"), _option(worker, "--runs")
    if of_head and of_worker and of_head != of_worker:
        yield Finding(
            where,
            f"the workers check --runs {of_worker}, the head --runs {of_head}; all nodes must share one folder of runs",
        )


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


def _ray_start(command: str) -> str:
    """The part of a line of commands that calls `ray start`."""
    return re.split(r"&&|\|\||;", command.partition("ray start")[2])[0]


def _option(command: str, name: str) -> str:
    found = re.search(rf"(?<!\S){re.escape(name)}[= ](\S+)", command)
    return found[1] if found else ""
