"""Processes in namespaces, seen from outside: they end with their starter, and can be found and killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def start_bound(command: Sequence[str], *, log: Path, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills when this one ends, however it ends."""

    def die_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def child_of(pid: int) -> int:
    """The first child of a process; 0 if it has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


@dataclass(frozen=True)
class Process:
    """A process of a host, by its pid in this machine's own namespace."""

    pid: int
    command: str

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def exists(self) -> bool:
        """False for zombies as well."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def title(self) -> str:
        """The command line now: Ray changes it to what the process is doing."""
        return _command(self.pid)


def processes_in(namespace: str) -> list[Process]:
    """All processes of a process namespace (`readlink /proc/PID/ns/pid`)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and namespace_of(int(entry.name)) == namespace:
            found.append(Process(int(entry.name), _command(int(entry.name))))
    return found


def namespace_of(pid: int) -> str:
    """The process namespace of a process; empty if it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
