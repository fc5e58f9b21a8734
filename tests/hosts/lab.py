"""A head, workers and a laptop on one switch, with one shared folder; removed when the block ends, however it ends.

| host | address | what it has |
|---|---|---|
| `out` | .2 | the laptop: the user's key, a clone of the project; no shared folder |
| `head` | .10 | |
| `w1`, `w2` … | .11, .12 … | |
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from tests.hosts.environment import make_layer
from tests.hosts.host import Host
from tests.hosts.machine_files import allow_user, copy_project, new_key
from tests.hosts.network import SUBNET, Switch

PROJECT = Path(__file__).resolve().parents[2]
LAPTOP, HEAD = "out", "head"
SMALL, SMALL_MEGABYTES = "small", 300
"""A folder in the shared one that is a disk of its own, to be filled up."""
_CLONE_NEWNS = 0x00020000
_FOLDER, _OWNER = "wsss-hosts", "owner.json"


class Lab:
    """The hosts by name. `folder` is removed with them."""

    def __init__(self, folder: Path, switch: Switch) -> None:
        self.folder = folder
        self.switch = switch
        self.shared = folder / "shared"
        self.layer = folder / "environment"
        self.hosts: dict[str, Host] = {}

    def add(self, name: str, *, hosts_style: str = "debian") -> Host:
        """Make a host and switch it on."""
        shared = None if name == LAPTOP else self.shared
        host = Host(name, address_of(name), self.folder / "hosts" / name, self.switch, self.layer, shared, hosts_style)
        host.make()
        key = self.folder / "user_key"
        new_key(key, comment="wsss-hosts")
        if name == LAPTOP:
            shutil.copy2(key, host.home / ".ssh" / "id_ed25519")
            copy_project(PROJECT, host.home / "wsss")
        else:
            allow_user(host.home, key.with_suffix(".pub"))
        self.hosts[name] = host
        host.start()
        return host

    @contextmanager
    def small_disk_full(self) -> Iterator[None]:
        """Inside the block, the disk `small` in the shared folder has no room left."""
        filler = self.shared / SMALL / "filler"
        try:
            for size in (1_000_000, 4096):
                with suppress(OSError), filler.open("ab", buffering=0) as file:
                    while file.write(bytes(size)) == size:
                        pass
            yield
        finally:
            filler.unlink()

    @property
    def laptop(self) -> Host:
        return self.hosts[LAPTOP]

    @property
    def head(self) -> Host:
        return self.hosts[HEAD]

    @property
    def workers(self) -> list[Host]:
        return [host for name, host in self.hosts.items() if name not in (LAPTOP, HEAD)]

    def close(self) -> None:
        for host in self.hosts.values():
            host.power_off()
        self.switch.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def own_mounts() -> None:
    """Give this thread, and the processes that it starts, a mount namespace: nobody else sees what they mount."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def address_of(name: str) -> str:
    numbers = {LAPTOP: 2, HEAD: 10}
    return f"{SUBNET}.{numbers.get(name) or 10 + int(name.removeprefix('w'))}"


@contextmanager
def lab(workers: int = 2, *, hosts_style: str = "debian") -> Iterator[Lab]:
    """Hosts that run until the block ends. SIGTERM ends the block as Ctrl-C does; SIGKILL ends the hosts as well,
    and the next call removes their folder."""
    remove_leftovers()
    folder = base_folder() / f"{os.getpid()}"
    with ExitStack() as stack:
        stack.enter_context(_sigterm_interrupts())
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "shared").mkdir(parents=True)
        (folder / _OWNER).write_text(json.dumps({"pid": os.getpid(), "started": _started(os.getpid())}))
        make_layer(folder / "environment")
        (folder / "shared" / SMALL).mkdir()
        own_mounts()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MEGABYTES}m", "tmpfs", str(folder / "shared" / SMALL)]
        subprocess.run(mount, check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(folder / "shared" / SMALL)], check=False)
        made = Lab(folder, Switch(folder))
        stack.callback(made.close)
        for name in (LAPTOP, HEAD, *(f"w{number + 1}" for number in range(workers))):
            made.add(name, hosts_style=hosts_style)
        yield made


def base_folder() -> Path:
    """Below the folder for temporary files; beside the environment if that is on another disk, for hard links."""
    temporary = Path(os.environ.get("WSSS_HOSTS_FOLDER") or tempfile.gettempdir())
    here = temporary.stat().st_dev == os.stat(sys.prefix).st_dev
    return (temporary if here else Path(sys.prefix).parent) / _FOLDER


def remove_leftovers() -> Sequence[Path]:
    """Remove the folders of earlier runs whose process has ended; its hosts ended with it."""
    removed = []
    for owner in base_folder().glob(f"*/{_OWNER}"):
        with suppress(OSError, ValueError, KeyError):
            known = json.loads(owner.read_text())
            if _started(known["pid"]) != known["started"]:
                shutil.rmtree(owner.parent)
                removed.append(owner.parent)
    return removed


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if there is none. A pid alone may be another's by now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
