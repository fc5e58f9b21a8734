"""One host: its files, its power, and what runs on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.machine_files import hosts_file, make_files
from tests.hosts.network import Switch, wait_for_child
from tests.hosts.processes import Process, namespace_of, processes_in, start_bound
from tests.hosts.requirements import program

PROJECT = Path(__file__).resolve().parents[2]
NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")


@dataclass
class Host:
    """A host that is off until `start`. Its files survive a loss of power, its processes and memory do not."""

    name: str
    address: str
    folder: Path
    switch: Switch
    layer: Path
    """What its Python environment changes in this one; see `environment.make_layer`."""
    shared: Path | None
    """The folder that it sees as the shared one."""
    hosts_style: str = "debian"
    """What /etc/hosts says of the host's own name; see `machine_files.hosts_file`."""
    nice: int = 5
    _outer: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _pid: int = 0

    def make(self) -> None:
        """Write its files."""
        self.folder.mkdir(parents=True)
        style = hosts_file(self.name, self.address, self.hosts_style)
        make_files(self.folder, name=self.name, hosts_file=style)
        settings = {
            "name": self.name,
            "folder": str(self.folder),
            "layer": str(self.layer),
            "shared": str(self.shared or ""),
            "interpreter": os.path.realpath(sys.base_prefix),
            "sshd": program("sshd"),
            "nice": str(self.nice),
        }
        (self.folder / "host.json").write_text(json.dumps(settings))

    def start(self) -> None:
        """Switch the power on, connect it, and wait until sshd listens."""
        assert self._outer is None, f"{self.name} is on"
        boot = [sys.executable, "-m", "tests.hosts.boot", str(self.folder / "host.json")]
        unshare = [program("unshare"), *NAMESPACES, "--fork", "--kill-child=KILL", "--propagation", "private"]
        self._outer = start_bound([*unshare, *boot], folder=PROJECT, log=self.folder / "boot.log")
        self._pid = wait_for_child(self._outer)
        self.switch.plug(self.name, address=self.address, pid=self._pid)
        end = time.monotonic() + 30
        while not any("sshd" in process.command for process in self.processes()):
            if time.monotonic() > end or self._outer.poll() is not None:
                raise RuntimeError(f"{self.name} does not start: {(self.folder / 'boot.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def power_off(self) -> None:
        """Everything on it ends at once, without a signal that a process could catch."""
        if self._outer is not None:
            with suppress(ProcessLookupError):
                # Process 1, with which the kernel ends all others: their processor time then counts as that of our
                # children, which a kill of `unshare` would lose.
                os.kill(self._pid or self._outer.pid, signal.SIGKILL)
            self._outer.wait()
            end = time.monotonic() + 20
            while self.processes() and time.monotonic() < end:
                time.sleep(0.02)
        self._outer, self._pid = None, 0
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)  # a boot empties /tmp
        (self.folder / "tmp").mkdir(mode=0o1777, exist_ok=True)
        (self.folder / "tmp").chmod(0o1777)

    @property
    def pid(self) -> int:
        """Process 1 of the host."""
        assert self._pid, f"{self.name} is off"
        return self._pid

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def cut(self) -> None:
        self.switch.cut(self.name)

    def mend(self) -> None:
        self.switch.mend(self.name)

    def run(self, command: str, *, timeout: float = 120.0, check: bool = True) -> str:
        """A command line in a login shell, as over SSH; its whole output. Raises AssertionError if it fails."""
        done = subprocess.run(self.words(command), capture_output=True, text=True, timeout=timeout, check=False)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{self.name}: {command}: status {done.returncode}\n{output[-4000:]}"
        return output

    def background(self, command: str, *, log: Path) -> subprocess.Popen[bytes]:
        """Start a command line that ends with this process."""
        return start_bound(self.words(command), log=log)

    def words(self, command: str) -> list[str]:
        spaces = ["--mount", "--net", "--pid", "--uts", "--ipc"]
        enter = [program("nsenter"), "--target", str(self.pid), *spaces, f"--wd={Path.home()}"]
        clean = ["env", "-i", f"HOME={Path.home()}", "USER=root", "LANG=C.UTF-8", "TERM=dumb", f"PATH={os.defpath}"]
        return [*enter, *clean, "nice", "-n", str(self.nice), "bash", "--login", "-c", command]

    def processes(self) -> list[Process]:
        """All its processes; none if it is off."""
        space = namespace_of(self._pid) if self._pid else ""
        return processes_in(space) if space else []

    def find(self, *titles: str) -> list[Process]:
        """Its processes whose command line contains all these texts."""
        return [one for one in self.processes() if all(title in one.command for title in titles)]

    def kill(self, process: Process, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process, which must be one of this host."""
        assert namespace_of(process.pid) == namespace_of(self.pid), f"{process} does not run on {self.name}"
        process.signal(number)
