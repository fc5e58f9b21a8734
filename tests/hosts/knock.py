"""What answers a stranger: every TCP port of a host, asked from another host without and with a wrong token.

    python knock.py ports HOST                 the open ports, as JSON
    python knock.py ask HOST PORT...           what they answered to a stranger, a line for each that gave anything

It runs on the asking host, so it imports nothing of this project. A port is asked as HTTP (paths of the
dashboard, of its agents and of Prometheus) and as gRPC (methods of Ray's servers). 401, 403 and UNAUTHENTICATED are
closed doors. Health checks (`/api/local_raylet_healthz`, `grpc.health.v1.Health/Check`) are not asked: they answer
everybody, with one word.
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATHS = ("/", "/metrics", "/api/version", "/api/jobs/", "/nodes?view=summary", "/logs")
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/FreeObjects",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
)
STRANGERS = {"no token": "", "a wrong token": "f" * 64}
_SECONDS = 4


@dataclass(frozen=True)
class Ports:
    """The ports that the cluster file fixes."""

    single: frozenset[int]
    first_worker: int
    last_worker: int

    def allows(self, port: int) -> bool:
        return port in self.single or self.first_worker <= port <= self.last_worker


ALLOWED = Ports(frozenset({22, 6379, 8074, 8075, 8076, 8077, 8078, 8079, 8265, 10001}), 10100, 10999)
"""Of cluster/onprem.yaml and ray_cluster.yaml; a test compares them with the files."""


def open_ports(asking: Any, address: str) -> list[int]:
    """The open ports at an address, seen from a host (`tests.hosts.host.Host`)."""
    ports: list[int] = json.loads(asking.run(f"python {_here(asking)} ports {address}", timeout=300).splitlines()[-1])
    return ports


def strangers_see(asking: Any, address: str, ports: Sequence[int]) -> list[str]:
    """What these ports answered without the right token."""
    words = " ".join(map(str, ports))
    output: str = asking.run(f"python {_here(asking)} ask {address} {words}", timeout=570)
    return output.splitlines()


def _here(asking: Any) -> str:
    (asking.home / "knock.py").write_bytes(Path(__file__).read_bytes())
    return "~/knock.py"


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _http(host: str, port: int, path: str, token: str) -> str:
    """The answer if it gives anything away; empty otherwise."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{host}:{port}{path}", headers=headers), timeout=_SECONDS
        ) as answer:
            return f"{answer.status} {answer.read(60)!r}"
    except urllib.error.HTTPError as error:
        return "" if error.code in (401, 403) else f"{error.code} {error.read(60)!r}"
    except Exception:  # not HTTP
        return ""


def _rpc(channel: Any, method: str, token: str) -> str:
    import grpc

    call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        return f"OK, {len(call(b'', timeout=_SECONDS, metadata=metadata))} bytes"
    except grpc.RpcError as error:
        closed = ("UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNIMPLEMENTED")
        return "" if error.code().name in closed else f"{error.code().name} {error.details()[:70]}"


def _answers(host: str, port: int) -> Iterator[str]:
    import grpc

    for stranger, token in STRANGERS.items():
        given = {path: _http(host, port, path, token) for path in PATHS}
        channel = grpc.insecure_channel(f"{host}:{port}")
        given |= {method: _rpc(channel, method, token) for method in METHODS}
        channel.close()
        if first := next(((name, text) for name, text in given.items() if text), None):
            yield f"{host}:{port}{first[0]} with {stranger}: {first[1]}"


def main(action: str, host: str, *ports: str) -> None:
    with ThreadPoolExecutor(64) as threads:
        if action == "ports":
            found = threads.map(lambda port: port if _is_open(host, port) else 0, range(1, 65536))
            print(json.dumps([port for port in found if port]))
        else:
            for lines in threads.map(lambda port: list(_answers(host, int(port))), ports):
                print("\n".join(lines), end="\n" if lines else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
