"""Ends a Ray session that this process started, with all of its processes, even if it started only partly."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import ray

_GRACE = 3.0
"""Seconds in which Ray's processes may exit by themselves."""
_ROUNDS = 5
_PR_SET_CHILD_SUBREAPER = 36


def end_session() -> None:
    """Shut the session down and wait for its processes; those that do not exit, such as Ray's agents, are killed."""
    with _adopting_orphans():
        family = _family()
        ray.shutdown()
        for number in range(_ROUNDS):
            # A process that was killed may have started another just before.
            family |= _family()
            _, alive = psutil.wait_procs(family, timeout=0 if number else _GRACE)
            if not alive:
                return
            for process in alive:
                _kill(process)
            psutil.wait_procs(alive, timeout=1.0)
            family = set()


def _family() -> set[psutil.Process]:
    """Ray's processes among this process's children, and all of their descendants."""
    found: set[psutil.Process] = set()
    for child in psutil.Process().children():
        if _is_ray_process(child):
            found.add(child)
            try:
                found.update(child.children(recursive=True))
            except psutil.Error:
                continue
    return found


def _is_ray_process(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    # What follows -c is code: that of multiprocessing's servers quotes sys.path, which has Ray's folders in it.
    words = words[: words.index("-c")] if "-c" in words else words
    return any("/ray/" in word or word.startswith("ray::") for word in words)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()  # psutil checks that the id still belongs to the same process
    except psutil.Error:
        return


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Inside the block, a process whose parent has ended becomes a child of this one, so that it can be found."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        yield
        return
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
