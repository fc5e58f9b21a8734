"""Processors, memory and GPUs of this machine."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator

import psutil

from cluster.check.node import facts
from cluster.check.start_commands import OPEN_FILES
from cluster.check.versions import oldest_driver
from cluster.doctor.examined import Examined

_GB = 1 << 30
_SMALL_MEMORY, _SMALL_SHM = 4 * _GB, 1 << 30
_TORCH = "import torch; print(torch.cuda.device_count(), torch.__version__)"


def examine_machine() -> Iterator[Examined]:
    """Cores, memory, shared memory, open files, GPUs."""
    cores = len(os.sched_getaffinity(0))
    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    found = f"{cores} core{'s' * (cores != 1)}, {total / _GB:.0f} GB of memory, {free / _GB:.0f} GB free"
    if free < _SMALL_MEMORY:
        yield Examined("note", "machine", found, "end other programs, or set runtime.num_actors = 1")
    else:
        yield Examined("ok", "machine", found)
    yield from _shared_memory()
    yield from _open_files()
    yield from _gpus()


def _shared_memory() -> Iterator[Examined]:
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:
        return
    if size < _SMALL_SHM:
        found = f"/dev/shm has {size >> 20} MB: Ray keeps objects on disk, which is slow"
        yield Examined("note", "memory", found, "start the container with --shm-size=4g")


def _open_files() -> Iterator[Examined]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        found = f"{soft} at most; Ray needs {OPEN_FILES} on a machine with many actors"
        yield Examined("note", "open files", found, "ulimit -n 65536")


def _gpus() -> Iterator[Examined]:
    known = facts()
    drivers, cuda = known["drivers"], known["cuda"]
    seen, problem = _seen_by_torch()
    if problem:
        yield Examined("fault", "torch", f"does not load: {problem}", f"{sys.executable} -m pip install --force torch")
    elif seen:
        yield Examined("ok", "GPUs", f"{seen} used by torch; driver {', '.join(sorted(set(drivers))) or 'unknown'}")
    elif drivers:
        needed = oldest_driver(cuda)
        found = (
            f"{len(drivers)} there (driver {drivers[0]}), but torch, built for CUDA {cuda or 'no version'}, sees none"
        )
        yield Examined("fault", "GPUs", found, f"install NVIDIA's driver {needed or ''} or later")
    else:
        yield Examined("ok", "GPUs", "none: recipes run on CPUs")


def _seen_by_torch() -> tuple[int, str]:
    """The number of GPUs that torch sees, and the error if it does not load; in a process of its own."""
    try:
        done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return 0, "no answer in 120 s"
    if done.returncode:
        return 0, (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return int(done.stdout.split()[0]), ""
