"""The peak memory of this process."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """The largest resident memory of this process since it was started, in bytes. Linux only.

    `ru_maxrss` of `getrusage` is no measure of it: it begins with the memory of the process that started this one.
    """
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
