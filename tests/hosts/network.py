"""A switch in a network namespace of its own, into which hosts are plugged; cables can be pulled and put back."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.hosts.processes import child_of, start_bound
from tests.hosts.requirements import program

SUBNET = "10.77.0"
GATEWAY = f"{SUBNET}.1"


def run_ip(*arguments: str, namespace: int | None = None) -> None:
    """`ip`, in the network namespace of a process if one is given."""
    inside = [program("nsenter"), "--target", str(namespace), "--net"] if namespace else []
    subprocess.run([*inside, program("ip"), *arguments], check=True, capture_output=True, text=True)


class Switch:
    """A bridge. The namespace has no name, so it ends with its process and nothing of it can be left behind."""

    def __init__(self, folder: Path) -> None:
        waiting = ["--net", "--pid", "--fork", "--kill-child=KILL", "sleep", "infinity"]
        self._holder = start_bound([program("unshare"), *waiting], log=folder / "switch.log")
        self._pid = wait_for_child(self._holder)
        self._ip("link", "add", "br0", "type", "bridge")
        self._ip("address", "add", f"{GATEWAY}/24", "dev", "br0")
        for device in ("br0", "lo"):
            self._ip("link", "set", device, "up")

    def plug(self, name: str, *, address: str, pid: int) -> None:
        """Connect the network namespace of a process: its interface is eth0, ours is called after the host."""
        self._ip("link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._ip("link", "set", f"v-{name}", "master", "br0", "up")
        # A machine keeps its hardware address when it starts again; the others know it for half a minute.
        numbers = ":".join(f"{int(part):02x}" for part in address.split("."))
        run_ip("link", "set", "eth0", "address", f"02:00:{numbers}", namespace=pid)
        run_ip("link", "set", "lo", "up", namespace=pid)
        run_ip("address", "add", f"{address}/24", "dev", "eth0", namespace=pid)
        run_ip("link", "set", "eth0", "up", namespace=pid)
        # Without a default route Ray takes 127.0.0.1 for the host's address.
        run_ip("route", "add", "default", "via", GATEWAY, namespace=pid)

    def cut(self, name: str) -> None:
        """Pull a host's cable."""
        self._ip("link", "set", f"v-{name}", "down")

    def mend(self, name: str) -> None:
        """Put it back."""
        self._ip("link", "set", f"v-{name}", "up")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def _ip(self, *arguments: str) -> None:
        run_ip(*arguments, namespace=self._pid)


def wait_for_child(parent: subprocess.Popen[bytes], timeout: float = 20.0) -> int:
    """The pid of the first process in the namespaces that `unshare --fork` made."""
    end = time.monotonic() + timeout
    while time.monotonic() < end and parent.poll() is None:
        if pid := child_of(parent.pid):
            return pid
        time.sleep(0.01)
    raise RuntimeError(f"no namespaces: unshare ended with status {parent.poll()}")
