"""A lock per instance: concurrent runs and trials share upstream results instead of computing them twice."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from shards.file_system_errors import writing
from wsss.contract.stopping import raise_if_stopped

LOCK = ".lock"
HOLDER = ".lock-holder.json"
_UNKNOWN = "another process"
POLL_SECONDS = 0.2
REPORT_SECONDS = 300.0
"""How often a process that waits names the one that it waits for."""
_LONGEST_COMMAND = 200


@contextmanager
def locked(folder: Path, *, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of an instance's folder; the system releases it if the process dies.

    `waiting` is called with a description of the process that holds the lock, if there is one: at once, when another
    process takes over, and every `REPORT_SECONDS`.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock, reported, again = FileLock(folder / LOCK), "", 0.0
    while not lock.is_locked:
        try:
            with writing(folder / LOCK):
                lock.acquire(timeout=0)
        except Timeout:
            holder = _holder(folder)
            if not reported or (holder != reported and holder != _UNKNOWN) or time.monotonic() > again:
                waiting(holder)
                reported, again = holder, time.monotonic() + REPORT_SECONDS
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
    """Information for other processes; the lock itself does not depend on it."""
    command = shlex.join(sys.orig_argv)[:_LONGEST_COMMAND]
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "command": command}
    with suppress(OSError):
        (folder / HOLDER).write_text(json.dumps(holder))


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_bytes())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder["since"])))
        running = f": {holder['command']}" if holder.get("command") else ""
        return f"process {holder['pid']} on {holder['host']}, since {since} by its clock{running}"
    except (OSError, ValueError, TypeError, KeyError):
        return _UNKNOWN
