"""SIGTERM does what Ctrl-C does: what is under way is ended cleanly, and the same command resumes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = "stopped; the same command resumes from here"
_AGAIN_SECONDS = 0.05

_installed = False
_arrived = False


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived. A KeyboardInterrupt, since all that ends cleanly on Ctrl-C shall do so here as well."""


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM raises `TerminatedError` in the main thread; a second one is ignored."""
    global _installed, _arrived
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    _installed, _arrived = True, False
    catch_sigterm()
    sys.unraisablehook = lambda lost: _raise_again() if lost.exc_type is TerminatedError else hook(lost)
    try:
        yield
    finally:
        _installed = False
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


def catch_sigterm() -> bool:
    """Take SIGTERM back from a library that took it for itself; does nothing, and is False, where nobody asked
    `stop_on_sigterm` for it."""
    asked = _installed and threading.current_thread() is threading.main_thread()
    if asked:
        signal.signal(signal.SIGTERM, _stop)
    return asked


def exit_status() -> int:
    """Of a process that was stopped: 143 by SIGTERM, else 130. Ray makes a plain KeyboardInterrupt of either."""
    return 128 + (signal.SIGTERM if _arrived else signal.SIGINT)


def raise_if_stopped() -> None:
    """For loops that wait: a signal that arrived inside a library's own callback may have been swallowed there."""
    if _installed and _arrived:
        raise TerminatedError


def _stop(number: int, frame: FrameType | None) -> None:
    global _arrived
    if _arrived:
        return
    _arrived = True
    raise TerminatedError


def _raise_again() -> None:
    """Python throws away what is raised in a destructor, or while it forks; that is where the signal met it."""
    global _arrived
    _arrived = False
    timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
