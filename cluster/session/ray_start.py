"""Starts Ray without two side effects: it replaces the handler of SIGTERM, and prints a page for every dead worker.

Ray has no settings for either, so the functions responsible are replaced here while it starts. If another version of
Ray does not have one of these functions, that replacement is skipped.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ray import _raylet as raylet
from ray._private import utils, worker

from cluster.session.ray_processes import end_session
from wsss.contract.stopping import catch_sigterm

_DEATH = "A worker died or was killed while executing a task"
"""The start of the message that Ray prints about a dead worker; the runtimes report deaths with their cause."""


@contextmanager
def quiet_start() -> Iterator[None]:
    """Start Ray inside this block. If that fails or is interrupted, the processes started so far are ended."""
    _silence_deaths()
    try:
        if not catch_sigterm():
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(_replaced(utils, "set_sigterm_handler", lambda handler: None))
            stack.enter_context(_replaced(raylet, "CoreWorker", _core_worker(getattr(raylet, "CoreWorker", None))))
            yield
    except BaseException:
        end_session()
        raise
    finally:
        catch_sigterm()


def _core_worker(make: Callable[..., Any] | None) -> Callable[..., Any]:
    """Wraps Ray's CoreWorker, which installs C++ signal handlers that print a stack and abort."""

    def made(*arguments: Any, **options: Any) -> Any:
        assert make is not None, "it is only replaced if it exists"
        # The threads that it starts inherit the block, so that this thread receives the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return make(*arguments, **options)
        finally:
            catch_sigterm()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    return made


@contextmanager
def _replaced(module: Any, name: str, by: Any) -> Iterator[None]:
    """Inside the block, replace an attribute of a module; do nothing if the module does not have it."""
    if (before := getattr(module, name, None)) is None:
        yield
        return
    setattr(module, name, by)
    try:
        yield
    finally:
        setattr(module, name, before)


def _silence_deaths() -> None:
    """Filter Ray's messages about dead workers; has an effect only once per process."""
    show = getattr(worker, "print_to_stdstream", None)
    if show is None or hasattr(show, "leaves_out_deaths"):
        return

    def shown(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        lines = [line for line in data.get("lines", []) if not str(line).startswith(_DEATH)]
        if lines:
            show({**data, "lines": lines}, *arguments, **options)

    shown.leaves_out_deaths = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = shown
