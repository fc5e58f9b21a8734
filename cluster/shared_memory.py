"""Room in /dev/shm, where the processes of a loader leave their batches: containers often have 64 MB of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cluster.loader_memory import bytes_in_use

FOLDER = "/dev/shm"
_WORDS = (
    "unable to allocate shared memory",
    "unable to write to file </torch",
    "Bus error",
    "insufficient shared memory",
)
"""How torch says that there is no room."""


class SharedMemoryError(ValueError):
    """/dev/shm is too small for what the settings ask; the message says what to change."""


def free_bytes() -> int | None:
    """Bytes that are free in /dev/shm; None on a system without it."""
    try:
        found = os.statvfs(FOLDER)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def require_room(example: Mapping[str, Any], *, batch_size: int, workers: int) -> None:
    """Raise `SharedMemoryError` where the batches of a rank's loader do not fit, before any of its processes starts.

    `example`: one of those that batches are made of; `batch_size`: the most of them in a batch.
    """
    need, free = workers * bytes_in_use(example, batch_size=batch_size), free_bytes()
    if free is not None and need > free:
        raise SharedMemoryError(_too_small(workers, f"needs {_megabytes(need)} there, {_megabytes(free)} are free"))


def is_about_room(error: BaseException) -> bool:
    """True for what torch raises where /dev/shm is full: other ranks, and other programs, use it too."""
    return any(words in str(error) for words in _WORDS)


def out_of_room(workers: int) -> SharedMemoryError:
    """The error for `is_about_room`, in terms of settings."""
    free = free_bytes()
    left = "" if free is None else f", {_megabytes(free)} are free now"
    return SharedMemoryError(_too_small(workers, f"ran out of it{left}"))


def _too_small(workers: int, what: str) -> str:
    return (
        f"loader_workers = {workers}: {FOLDER} is too small, each rank's loader {what}; give the machine or container "
        "more (docker run --shm-size=2g), or set fewer loader_workers, 0 for none, or a smaller batch_size"
    )


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.0f} MB"
