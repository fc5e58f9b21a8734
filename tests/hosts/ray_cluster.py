"""A Ray cluster on the hosts: `ray up`, `ray dashboard` and `ray down` on the laptop, as the README has them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.hosts.cluster_file import filled_in
from tests.hosts.dashboard import Dashboard, Job
from tests.hosts.host import Host
from tests.hosts.lab import PROJECT, Lab

SHIPPED = PROJECT / "cluster" / "onprem.yaml"
FILE = "cluster.yaml"
TOKEN = "export RAY_AUTH_MODE=token"


class RayCluster:
    """The cluster, and the laptop's tunnel to its dashboard."""

    def __init__(self, lab: Lab, *, options: str = "") -> None:
        self.lab = lab
        self.options = options
        self.up_seconds = 0.0
        self._tunnel: subprocess.Popen[bytes] | None = None
        self.dashboard = Dashboard(lab.laptop)

    @property
    def laptop(self) -> Host:
        return self.lab.laptop

    @property
    def head(self) -> Host:
        return self.lab.head

    @property
    def workers(self) -> list[Host]:
        return self.lab.workers

    def on_laptop(self, command: str, *, timeout: float = 300.0, check: bool = True) -> str:
        """A command of the user in the clone of the project."""
        return self.laptop.run(f"cd ~/wsss; {TOKEN}; {command}", timeout=timeout, check=check)

    def up(self) -> str:
        """`ray up`, then wait for all workers and open the tunnel."""
        begun = time.monotonic()
        addresses = [worker.address for worker in self.workers]
        text = filled_in(SHIPPED, head=self.head.address, workers=addresses, options=self.options)
        (self.laptop.home / "wsss" / FILE).write_text(text)
        if not (self.laptop.home / ".ray" / "auth_token").exists():
            self.on_laptop("ray get-auth-token --generate; chmod 600 ~/.ray/auth_token")
        if "wsss" not in self.on_laptop("command -v wsss", check=False):
            self.on_laptop("pip install --quiet --no-deps --editable .")
        self.on_laptop(f"wsss cluster check {FILE}")
        printed = self.on_laptop(f"ray up --yes {FILE} < /dev/null", timeout=600)
        self.open_tunnel()
        self.wait_for_nodes(1 + len(self.workers))
        self.up_seconds = time.monotonic() - begun
        return printed

    def down(self) -> str:
        """The end that the README has for own machines; what it printed."""
        self.close_tunnel()
        return self.on_laptop(f"wsss cluster down {FILE}", timeout=300)

    def open_tunnel(self) -> None:
        """`ray dashboard` in the background, until the dashboard answers."""
        self.close_tunnel()
        command = f"cd ~/wsss; {TOKEN}; exec ray dashboard {FILE}"
        self._tunnel = self.laptop.background(command, log=self.lab.folder / "tunnel.log")
        end = time.monotonic() + 120
        while self.dashboard.request("GET", "/api/version")[0] != 200:
            assert time.monotonic() < end, (self.lab.folder / "tunnel.log").read_text()[-2000:]
            time.sleep(0.5)

    def close_tunnel(self) -> None:
        if self._tunnel is not None:
            for process in [*self.laptop.find("ray dashboard"), *self.laptop.find("ssh", "8265")]:
                with suppress(ProcessLookupError):
                    self.laptop.kill(process)
            self._tunnel.wait()
            self._tunnel = None

    def submit(self, entrypoint: str, *, name: str) -> Job:
        return self.dashboard.submit(entrypoint, name=f"{name}-{time.time_ns() // 1_000_000 % 10_000_000}")

    def job(self, name: str) -> Job:
        """A job that was submitted by a command."""
        return Job(self.dashboard, name)

    def num_alive(self) -> int:
        """Number of nodes that the head believes alive."""
        status, text = self.dashboard.request("GET", "/nodes?view=hostNameList")
        return text.count('"', text.index("[")) // 2 if status == 200 else 0

    def wait_for_nodes(self, number: int, *, timeout: float = 300.0) -> float:
        """Wait until so many nodes are alive; the seconds that it took."""
        begun = time.monotonic()
        while self.num_alive() != number:
            assert time.monotonic() - begun < timeout, f"{self.num_alive()} nodes alive instead of {number}"
            time.sleep(1)
        return time.monotonic() - begun

    def start_anew(self) -> None:
        """Switch all hosts but the laptop off and on, and start the cluster again."""
        self.close()
        for host in (self.head, *self.workers):
            host.power_off()
            host.start()
            host.mend()
        self.dashboard = Dashboard(self.laptop)
        self.up()

    def close(self) -> None:
        self.close_tunnel()
        self.dashboard.close()


@contextmanager
def ray_cluster(lab: Lab, *, options: str = "") -> Iterator[RayCluster]:
    """A running cluster; the end of the lab ends it."""
    made = RayCluster(lab, options=options)
    try:
        made.up()
        yield made
    finally:
        made.close()
