"""Space in /dev/shm, through which loader processes pass their batches; containers often have only 64 MB."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cluster.training.loader_memory import bytes_in_use

FOLDER = "/dev/shm"
_WORDS = (
    "unable to allocate shared memory",
    "unable to write to file </torch",
    "Bus error",
    "insufficient shared memory",
)
"""Messages by which torch reports that there is no space."""


class SharedMemoryError(ValueError):
    """/dev/shm is too small for the settings; the message says what to change."""


def free_bytes() -> int | None:
    """Free bytes in /dev/shm; None on a system without it."""
    try:
        found = os.statvfs(FOLDER)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def require_room(example: Mapping[str, Any], *, batch_size: int, workers: int) -> None:
    """Raise `SharedMemoryError` if the batches of a rank's loader do not fit; called before its processes start.

    `example`: any example of the training set; `batch_size`: the largest number of examples in a batch.
    """
    need, free = workers * bytes_in_use(example, batch_size=batch_size), free_bytes()
    if free is not None and need > free:
        raise SharedMemoryError(_too_small(workers, f"needs {_megabytes(need)}, but only {_megabytes(free)} are free"))


def is_about_room(error: BaseException) -> bool:
    """True for torch's errors about a full /dev/shm, which other ranks and other programs use as well."""
    return any(words in str(error) for words in _WORDS)


def out_of_room(workers: int) -> SharedMemoryError:
    """The error to raise if `is_about_room` is true; it names the settings to change."""
    free = free_bytes()
    left = "" if free is None else f", {_megabytes(free)} are free now"
    return SharedMemoryError(_too_small(workers, f"ran out of space{left}"))


def _too_small(workers: int, what: str) -> str:
    return (
        f"loader_workers = {workers}: {FOLDER} is too small, each rank's loader {what}; give the machine or container "
        "more (docker run --shm-size=2g), or set fewer loader_workers, or 0 for none, or a smaller batch_size"
    )


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.0f} MB"
