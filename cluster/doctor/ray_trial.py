"""Starts Ray on this machine, runs one task and ends it again."""

from __future__ import annotations

import ray

from cluster.session.ray_processes import end_session
from cluster.session.ray_session import connect


def start_and_end() -> str:
    """Why Ray cannot run a task here; empty if it can."""
    owns = False
    try:
        owns = connect(None)
        doubled = ray.remote(_double).remote(21)
        return "" if ray.get(doubled, timeout=120) == 42 else "a task gave a wrong result"
    except Exception as error:  # whatever Ray raises is the answer
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        if owns:
            end_session()


def _double(number: int) -> int:
    return 2 * number
