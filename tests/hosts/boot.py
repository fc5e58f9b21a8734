"""Process 1 of a host: sets up what the host sees of this machine, starts sshd, and reaps processes.

    unshare --net --pid --fork --mount ... python -m tests.hosts.boot HOST.json

All mounts are in the host's own mount namespace; nothing is created outside the host's folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.hosts.environment import mount_environment

MNT = Path("/mnt")
SSHD_CONFIG = """\
Port 22
HostKey /run/ssh/host_key
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
MaxStartups 100
MaxSessions 100
AuthorizedKeysFile /root/.ssh/authorized_keys
Subsystem sftp internal-sftp
"""


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def main(host: Mapping[str, str]) -> None:
    """`host`: name, folder (home, tmp, etc, env below it), layer, shared (or empty), interpreter, sshd, nice."""
    folder = Path(host["folder"])
    subprocess.run(["hostname", host["name"]], check=True)
    mount("--make-rprivate", "/")
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", MNT)
    mount_environment(Path(host["layer"]), folder / "env")
    if host["shared"]:
        (MNT / "shared").mkdir()
        mount("--rbind", host["shared"], MNT / "shared")
    for file in ("hosts", "resolv.conf"):
        mount("--bind", folder / "etc" / file, Path("/etc") / file)
    mount("-t", "tmpfs", "-o", "size=8g", "tmpfs", "/dev/shm")
    mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", "/run")
    _ssh_files(folder)
    _keep_interpreter(Path(host["interpreter"]), folder)
    mount("--rbind", folder / "home", Path.home())
    mount("--rbind", folder / "tmp", "/tmp")  # afterwards this machine's own folder is out of sight
    os.chdir("/")
    os.nice(int(host["nice"]))
    _wait_for_network()
    environment = {"HOME": str(Path.home()), "USER": "root", "LANG": "C.UTF-8", "PATH": os.defpath}
    subprocess.Popen([host["sshd"], "-D", "-e", "-f", "/run/ssh/sshd_config"], env=environment)
    while True:
        _reap()


def _bind(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    mount("--bind", source, target)


def _ssh_files(folder: Path) -> None:
    Path("/run/sshd").mkdir()
    Path("/run/ssh").mkdir(mode=0o700)
    key = Path("/run/ssh/host_key")
    key.write_bytes((folder / "etc/host_key").read_bytes())
    key.chmod(0o600)
    Path("/run/ssh/sshd_config").write_text(SSHD_CONFIG)


def _keep_interpreter(interpreter: Path, folder: Path) -> None:
    """Keep the environment's interpreter visible if it is below a folder that the host replaces by its own."""
    for hidden, own in ((Path.home(), folder / "home"), (Path("/tmp"), folder / "tmp")):
        if interpreter.is_relative_to(hidden):
            _bind(interpreter, own / interpreter.relative_to(hidden))


def _wait_for_network() -> None:
    """The interface is put into this namespace from outside."""
    while not Path("/sys/class/net").exists() or "eth0" not in Path("/proc/net/dev").read_text():
        time.sleep(0.02)


def _reap() -> None:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
