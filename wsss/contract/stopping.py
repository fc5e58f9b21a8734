"""SIGTERM acts like Ctrl-C: running work is stopped cleanly, and the same command resumes it."""

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
    """SIGTERM arrived. A subclass of KeyboardInterrupt, so that code that stops cleanly on Ctrl-C does so here too."""


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
    """Install the handler again after a library replaced it. Does nothing and returns False outside `stop_on_sigterm`
    or outside the main thread."""
    asked = _installed and threading.current_thread() is threading.main_thread()
    if asked:
        signal.signal(signal.SIGTERM, _stop)
    return asked


def exit_status() -> int:
    """Exit status of a stopped process: 143 after SIGTERM, else 130. Ray turns both into a plain KeyboardInterrupt."""
    return 128 + (signal.SIGTERM if _arrived else signal.SIGINT)


def raise_if_stopped() -> None:
    """For loops that wait: a library's callback may have swallowed the exception raised by a signal."""
    if _installed and _arrived:
        raise TerminatedError


def _stop(number: int, frame: FrameType | None) -> None:
    global _arrived
    if _arrived:
        return
    _arrived = True
    raise TerminatedError


def _raise_again() -> None:
    """Send SIGTERM again: Python discards exceptions raised in a destructor or while forking, where it arrived."""
    global _arrived
    _arrived = False
    timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
