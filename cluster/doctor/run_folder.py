"""The folder of runs: its disk, and whether its file system does what runs rely on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cluster.doctor.examined import Examined
from cluster.tracking.network_folders import network_mount

_GB = 1 << 30
_LITTLE = 5 * _GB


def examine_folder(runs: Path) -> Iterator[Examined]:
    """Free space, the kind of file system, writing, renaming and locking. An absent folder is not made."""
    there = _existing(runs)
    usage = shutil.disk_usage(there)
    found = f"{usage.free / _GB:.0f} of {usage.total / _GB:.0f} GB free at {runs}"
    if usage.free < _LITTLE:
        yield Examined("note", "disk", found, "free some space, or name another folder: --set runtime.runs=FOLDER")
    else:
        yield Examined("ok", "disk", found)
    mount = network_mount(there)
    if mount is not None:
        yield Examined(
            "note",
            "runs",
            f"{runs} is on {mount.kind} at {mount.folder}, where MLflow's SQLite database is not safe",
            "set MLFLOW_TRACKING_URI to a server or to a file on a local disk",
        )
    problem = _refused(there)
    if problem:
        yield Examined("fault", "runs", f"{there}: {problem}", "name another folder: --set runtime.runs=FOLDER")
    elif mount is None:
        yield Examined("ok", "runs", "on a local file system that writes, renames and locks")
    temporary = Path(tempfile.gettempdir())
    free = shutil.disk_usage(temporary).free
    if free < _LITTLE:
        yield Examined(
            "note", "disk", f"{free / _GB:.1f} GB free at {temporary}, where Ray keeps its session", "free some"
        )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _refused(folder: Path) -> str:
    """What the file system does not do; empty if it does everything that a run needs."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".wsss-doctor-") as name:
            probe = Path(name)
            with (probe / ".a.tmp").open("wb") as file:
                file.write(b"probe")
                file.flush()
                os.fsync(file.fileno())
            (probe / ".a.tmp").replace(probe / "a")
            if (probe / "a").read_bytes() != b"probe":
                return "a renamed file does not have its content"
            first, second = (FileLock(probe / "lock", is_singleton=False) for _ in range(2))
            with first:
                try:
                    second.acquire(timeout=0)
                except Timeout:
                    return ""
            return "it does not lock files, so two runs could do the same work"
    except OSError as error:
        return f"it cannot be written to ({error.strerror or error})"
