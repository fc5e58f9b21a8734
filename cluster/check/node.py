"""What one machine says about itself: versions, GPU driver, open files, the shared folder. It needs no Ray."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.check.findings import Finding
from cluster.check.mounts import TOKEN
from cluster.check.start_commands import OPEN_FILES
from cluster.check.versions import cuda_of_torch, installed, oldest_driver, pinned

PACKAGES = ("wsss", "ray", "torch", "torchvision", "deepspeed", "numpy")
"""Packages whose versions must be the same on all nodes."""
_ROOT = Path(__file__).resolve().parents[2]
_SMALL_SHM = 1 << 30


def facts() -> dict[str, Any]:
    """This machine's name, versions, limits and GPUs; values that JSON can hold."""
    return {
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "cuda": cuda_of_torch(),
        "drivers": _drivers(),
    }


def check_here(*, runs: Path | None) -> list[Finding]:
    """Faults of this machine, as the start commands of the cluster files ask before they start Ray."""
    known = facts()
    found = [*node_faults(known, gpus=_promised_gpus()), *_token(), *_versions(known), *_shared_memory()]
    if runs is not None:
        found += _folder(runs)
    return found


def node_faults(known: dict[str, Any], *, gpus: float) -> Iterator[Finding]:
    """Faults in the facts of a node that offers this number of GPUs to Ray."""
    host, drivers, needed = known["host"], known["drivers"], oldest_driver(known["cuda"])
    if known["open_files"] < OPEN_FILES:
        yield Finding(
            host,
            f"at most {known['open_files']} open files; at least {OPEN_FILES} are needed. Raise the limit: `ulimit -n "
            "65536` before `ray start`, nofile in /etc/security/limits.conf, or --ulimit nofile=65536:65536 of docker",
        )
    if gpus and not drivers:
        yield Finding(
            host,
            f"is to offer {gpus:g} GPUs, but nvidia-smi finds none: install NVIDIA's driver {needed or ''} or later "
            "and, for containers, the NVIDIA container toolkit, or use a machine image that has both "
            "(ImageId in ray_cluster.yaml)",
        )
    elif gpus > len(drivers):
        yield Finding(
            host, f"is to offer {gpus:g} GPUs, but has {len(drivers)}; correct resources: {{GPU: …}} or the machine"
        )
    for driver in sorted(set(drivers)):
        major = driver.partition(".")[0]
        if needed and major.isdigit() and int(major) < needed:
            yield Finding(
                host,
                f"the GPU driver {driver} is too old for CUDA {known['cuda']}, which torch "
                f"{known['versions'].get('torch', '')} was built for: at least {needed} is needed. Use a newer machine "
                "image (ImageId in ray_cluster.yaml), or install the driver on the machine",
            )


def _promised_gpus() -> float:
    """The GPUs that this node will offer by the cluster file (Ray's launcher passes them on); 0 if it says nothing."""
    try:
        return float(json.loads(os.environ.get("RAY_OVERRIDE_RESOURCES", "{}")).get("GPU", 0))
    except (ValueError, AttributeError):
        return 0.0


def _drivers() -> list[str]:
    """The driver's version for each GPU; empty without a GPU or a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _token() -> Iterator[Finding]:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = TOKEN.expanduser()
    if not token.is_file():
        yield Finding(socket.gethostname(), f"there is no token {TOKEN}; copy that of the head (file_mounts)")
    elif token.stat().st_mode & 0o077:
        yield Finding(socket.gethostname(), f"others may read the token; chmod 600 {TOKEN}")


def _versions(known: dict[str, Any]) -> Iterator[Finding]:
    """Against constraints.txt of the checkout that this package comes from; a wheel has none."""
    for name in PACKAGES[1:]:
        tested, here = pinned(name, _ROOT), known["versions"][name].partition("+")[0]
        if tested and here != tested:
            yield Finding(
                known["host"],
                f"has {name} {here or '(not installed)'}, constraints.txt {tested}; "
                "pip install --constraint ~/wsss/constraints.txt --editable ~/wsss",
                refused=name in ("ray", "torch"),
            )


def _shared_memory() -> Iterator[Finding]:
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:
        return
    if size < _SMALL_SHM:
        yield Finding(
            socket.gethostname(),
            f"/dev/shm has {size >> 20} MB, so that Ray keeps objects on disk; start the container with --shm-size",
            refused=False,
        )


def _folder(runs: Path) -> Iterator[Finding]:
    """`runs` must exist and be writable. It is not made here: on a node without its mount it would be a folder of the
    node's own."""
    try:
        with tempfile.NamedTemporaryFile(dir=runs, prefix=".probe-") as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
        own_disk = on_own_disk(runs)
    except OSError as error:
        yield Finding(socket.gethostname(), not_writable(runs, error.strerror or str(error)))
        return
    if own_disk:
        yield Finding(
            socket.gethostname(),
            f"{runs} is on the same file system as /; unless this machine serves it to the others, the shared file "
            "system is not mounted here",
            refused=False,
        )


def on_own_disk(folder: Path) -> bool:
    """True if a folder is on the file system of the root folder, so that nothing is mounted there."""
    return folder.stat().st_dev == Path("/").stat().st_dev


def not_writable(runs: Path, error: str) -> str:
    """What is wrong with a folder of runs into which a node cannot write, and what to do."""
    return (
        f"cannot write into {runs} ({error}); mount the shared file system there, make the folder in it once "
        f"(mkdir {runs}, as the head's setup does), and let this user write"
    )
