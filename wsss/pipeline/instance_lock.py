"""One driver at a time per instance: concurrent runs and trials share upstream work instead of doing it twice."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from shards.file_system_errors import writing
from wsss.contract.stopping import raise_if_stopped

LOCK = ".lock"
HOLDER = ".lock-holder.json"
POLL_SECONDS = 0.2


@contextmanager
def locked(folder: Path, *, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of an instance's folder; the system gives it back where the process dies.

    `waiting` is called once, with a few words on who holds the lock, where somebody does.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock, told = FileLock(folder / LOCK), False
    while not lock.is_locked:
        try:
            with writing(folder / LOCK):
                lock.acquire(timeout=0)
        except Timeout:
            if not told:
                waiting(_holder(folder))
                told = True
            raise_if_stopped()
            time.sleep(POLL_SECONDS)
    try:
        _write_holder(folder)
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _write_holder(folder: Path) -> None:
    """Only words for others: the lock holds without them."""
    words = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    with suppress(OSError):
        (folder / HOLDER).write_text(json.dumps(words))


def _holder(folder: Path) -> str:
    try:
        words = json.loads((folder / HOLDER).read_bytes())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(words["since"])))
        return f"process {words['pid']} on {words['host']}, since {since}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
