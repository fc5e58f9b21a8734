"""Configures the C library's allocator to keep freed memory, because every training step allocates the same again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**31 - 1
"""The largest value that mallopt accepts."""


def keep_freed_memory() -> bool:
    """Keep freed memory in the process until it ends. Returns True if the C library supports that.

    Otherwise every step's activations are returned to the system and allocated again, page by page: a fifth of a step's
    time on CPUs (`tests/benchmarks/engine.py`). The process stays at its peak size, which every step reaches anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt  # glibc; other C libraries have none
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _KEPT_BYTES))
