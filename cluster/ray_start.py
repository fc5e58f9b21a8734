"""What Ray does to a process when it starts, kept from it: it takes SIGTERM, and prints a page for a worker that died.

Ray has no settings for either, so its functions are replaced here while it starts. Where one of these names is gone, in
another version, that part is left out.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ray import _raylet as raylet
from ray._private import utils, worker

from cluster.ray_processes import end_session
from wsss.contract.stopping import catch_sigterm

_DEATH = "A worker died or was killed while executing a task"
"""How the message begins that Ray prints of a death; runtimes report it themselves, with its cause."""


@contextmanager
def quiet_start() -> Iterator[None]:
    """Start Ray inside this block. Where starting fails, or is interrupted, what has started is ended."""
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
    """Ray's core replaces handlers of signals by its own, in C++, which print a stack and abort."""

    def made(*arguments: Any, **options: Any) -> Any:
        assert make is not None, "it is only replaced where it is there"
        # The threads that it starts keep the signal blocked: this thread is the one to take it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return make(*arguments, **options)
        finally:
            catch_sigterm()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    return made


@contextmanager
def _replaced(module: Any, name: str, by: Any) -> Iterator[None]:
    """A name of a module means something else inside the block; nothing where the module has no such name."""
    if (before := getattr(module, name, None)) is None:
        yield
        return
    setattr(module, name, by)
    try:
        yield
    finally:
        setattr(module, name, before)


def _silence_deaths() -> None:
    """Once per process."""
    show = getattr(worker, "print_to_stdstream", None)
    if show is None or hasattr(show, "leaves_out_deaths"):
        return

    def shown(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        lines = [line for line in data.get("lines", []) if not str(line).startswith(_DEATH)]
        if lines:
            show({**data, "lines": lines}, *arguments, **options)

    shown.leaves_out_deaths = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = shown
