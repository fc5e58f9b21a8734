"""The C library's allocator, told to keep what a training frees: the next step asks for the same again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**31 - 1
"""The largest number that mallopt takes."""


def keep_freed_memory() -> bool:
    """Do not give freed memory back to the system before the process ends; True where the C library can do that.

    Without it every step's activations are returned and fetched anew, page by page: a fifth of a step's time on CPUs
    (`tests/benchmarks/engine.py`). The process stays as large as it was at its peak, which every step reaches again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt  # glibc; other C libraries have none
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _KEPT_BYTES))
