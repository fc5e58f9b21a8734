"""A lock per instance: concurrent runs and trials share upstream results instead of computing them twice.

It ends with its process, on every file system: see `wsss.pipeline.lock_holder`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from shards.file_system_errors import writing
from wsss.contract.stopping import raise_if_stopped
from wsss.pipeline.lock_holder import HOLDER, POLL_SECONDS, UNKNOWN, claimed, dead_holder, describe

LOCK = ".lock"
__all__ = ["HOLDER", "LOCK", "locked"]
_WITHOUT_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
"""What file systems without locks answer, and NFS without a lock server."""
REPORT_SECONDS = 300.0
"""How often a process that waits names the one that it waits for."""


@contextmanager
def locked(folder: Path, *, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of an instance's folder; it is free again when the process dies.

    `waiting` is called with a description of the process that holds the lock, if there is one: at once, when another
    process takes over, and every `REPORT_SECONDS`.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock, said = FileLock(folder / LOCK, fallback_to_soft=False), _Said(folder, waiting)
    while True:
        taken = _try(lock, folder)
        if taken is not None:
            try:
                if (dead := dead_holder(folder, has_flock=taken)) is not None:
                    with claimed(folder, instead_of=dead) as mine:
                        if mine:
                            yield
                            return
            finally:
                lock.release()
        said.again()
        raise_if_stopped()
        time.sleep(POLL_SECONDS)


def _try(lock: FileLock, folder: Path) -> bool | None:
    """Take the operating system's lock: True; None if another process has it; False if the file system has none."""
    try:
        with writing(folder / LOCK):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
                return False
    except Timeout:
        return None
    return True


class _Said:
    """Names the process that is waited for, but not at every look."""

    def __init__(self, folder: Path, waiting: Callable[[str], None]) -> None:
        self._folder, self._waiting = folder, waiting
        self._reported, self._next = "", 0.0

    def again(self) -> None:
        holder = describe(self._folder)
        changed = holder not in (self._reported, UNKNOWN)
        if not self._reported or changed or time.monotonic() > self._next:
            self._waiting(holder)
            self._reported, self._next = holder, time.monotonic() + REPORT_SECONDS
