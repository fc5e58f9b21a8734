"""The jobs of a cluster, asked through the laptop's tunnel with the token, without starting a process for it."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.hosts.host import Host

PORT = 8265
_CLONE_NEWNET = 0x40000000
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Dashboard:
    """Requests are sent by a thread that has joined the laptop's network namespace."""

    def __init__(self, laptop: Host, *, port: int = PORT) -> None:
        self._laptop = laptop
        self._port = port
        self._thread = ThreadPoolExecutor(1, initializer=_join_network, initargs=(laptop.pid,))

    def close(self) -> None:
        self._thread.shutdown()

    def submit(self, entrypoint: str, *, name: str, variables: Mapping[str, str] | None = None) -> Job:
        """As `ray job submit` does without a working directory: the code installed on the nodes is run."""
        environment = {"env_vars": dict(variables)} if variables else {}
        body = {"entrypoint": entrypoint, "submission_id": name, "runtime_env": environment}
        status, text = self.request("POST", "/api/jobs/", body)
        assert status == 200, (status, text)
        return Job(self, name)

    def request(self, method: str, path: str, body: object = None, *, token: str | None = None) -> tuple[int, str]:
        """Status and text of an answer; status 0 if nothing answers. `token`: another than the laptop's."""
        right = (self._laptop.home / ".ray" / "auth_token").read_text().strip()
        headers = {"Authorization": f"Bearer {right if token is None else token}", "Content-Type": "application/json"}
        return self._thread.submit(_request, self._port, method, path, json.dumps(body), headers).result()


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    dashboard: Dashboard
    name: str

    def status(self) -> str:
        status, text = self.dashboard.request("GET", f"/api/jobs/{self.name}")
        return str(json.loads(text)["status"]) if status == 200 else f"HTTP {status}"

    def logs(self) -> str:
        status, text = self.dashboard.request("GET", f"/api/jobs/{self.name}/logs")
        return str(json.loads(text)["logs"]) if status == 200 else f"HTTP {status}"

    def stop(self) -> None:
        self.dashboard.request("POST", f"/api/jobs/{self.name}/stop")

    def wait(self, *, timeout: float) -> str:
        """Its last status, and the end of its log if it did not succeed. Raises AssertionError if it does not end."""
        end, last = time.monotonic() + timeout, ""
        while time.monotonic() < end:
            last = self.status()
            if last in ENDED:
                return last
            time.sleep(1)
        log = self.logs()
        self.stop()
        raise AssertionError(f"{self.name} is {last} after {timeout:.0f} s:\n{log[-3000:]}")

    def succeeds(self, *, timeout: float) -> str:
        """Its log. Raises AssertionError if it ends otherwise."""
        status = self.wait(timeout=timeout)
        log = self.logs()
        assert status == "SUCCEEDED", f"{self.name}: {status}\n{log[-4000:]}"
        return log


def _join_network(pid: int) -> None:
    """Put this thread, and no other of the process, into the network namespace of a process."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _request(port: int, method: str, path: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, None if body == "null" else body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except OSError as error:
        return 0, f"{type(error).__name__}: {os.strerror(error.errno) if error.errno else error}"
    finally:
        connection.close()
