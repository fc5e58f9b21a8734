"""What hosts in namespaces need: `python -m tests.hosts.requirements` says NOT RUN and ends with status 3 without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NOT_RUN = "NOT RUN: "
STATUS = 3
_PROGRAMS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",
    "git": "git",
}
"""Program -> the package of Debian and Ubuntu that contains it."""
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def program(name: str) -> str:
    """The path of a program, also of those that only root has on the search path; empty if it is not installed."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH) or ""


def missing() -> str:
    """Why separate hosts cannot be made here; empty if they can."""
    if os.name != "posix" or not sys.platform.startswith("linux"):
        return "namespaces need Linux"
    if os.geteuid() != 0:
        return "namespaces need root"
    if packages := sorted({package for name, package in _PROGRAMS.items() if not program(name)}):
        return f"not installed: {', '.join(packages)}"
    tried = ["--net", "--pid", "--fork", "--mount", "--uts", "--ipc", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run([program("unshare"), *tried], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"this machine gives no namespaces: {done.stderr.strip()}"
    return ""


if __name__ == "__main__":
    if reason := missing():
        print(f"{NOT_RUN}separate hosts: {reason}")
        sys.exit(STATUS)
