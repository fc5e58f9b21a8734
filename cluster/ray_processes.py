"""Ending a Ray session of this process's own: with it go all processes that it started, also from half a start."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import ray

_GRACE = 3.0
"""Seconds in which Ray's processes may end by themselves."""
_ROUNDS = 5
_PR_SET_CHILD_SUBREAPER = 36


def end_session() -> None:
    """Close the session and wait for its processes; those that do not follow, Ray's agents among them, are ended."""
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
    """Ray's processes below this one, and all that they started."""
    found: set[psutil.Process] = set()
    for child in psutil.Process().children():
        if _is_rays(child):
            found.add(child)
            try:
                found.update(child.children(recursive=True))
            except psutil.Error:
                continue
    return found


def _is_rays(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any("/ray/" in word or word.startswith("ray::") for word in words)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()  # psutil looks whether the id is still that of the same process
    except psutil.Error:
        return


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Inside the block a process whose parent has ended becomes a child of this one, and is found."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        yield
        return
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
