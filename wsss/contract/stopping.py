"""SIGTERM, and a closed terminal (SIGHUP), act like Ctrl-C: work is stopped cleanly, the same command resumes it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from wsss.contract.closed_output import drop_output

STOPPED = "stopped; the same command resumes from here"
ENDED = "stopped"
_AGAIN_SECONDS = 0.05
_STARTING_SECONDS = 5.0
_STARTS = {("subprocess.py", "_execute_child"), ("popen_fork.py", "_launch"), ("popen_spawn_posix.py", "_launch")}
"""File and name of the functions of Python's library that start a process. What calls `os.fork` itself is cut."""
_CHILD = ("process.py", "_bootstrap")
"""The function in which a forked child of `multiprocessing` does its work."""

_installed = False
_arrived = False
_held = _noted = False
_ask: Callable[[], bool] | None = None
_seconds = 0.0
_delayed: tuple[FrameType, float] | None = None
"""The start of a process that SIGTERM waits for, and since when."""
_deadline: float | None = None
"""Until when the work may end by itself (`time.monotonic`), after SIGTERM arrived in a block `asked_first`."""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived. A subclass of KeyboardInterrupt, so that code that stops cleanly on Ctrl-C does so here too."""


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM raises `TerminatedError` in the main thread; a second one is ignored.

    SIGHUP does the same, unless it is ignored, as it is after `nohup`.
    """
    global _installed, _arrived
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    _installed, _arrived = True, False
    catch_sigterm()
    if hears_hang_up := signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hang_up)
    sys.unraisablehook = lambda lost: _raise_again() if lost.exc_type is TerminatedError else hook(lost)
    try:
        yield
    finally:
        _installed = False
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)
        if hears_hang_up:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def asked_first(ask: Callable[[], bool], *, seconds: float) -> Iterator[None]:
    """Inside the block SIGTERM calls `ask`. If that returns True the work will end by itself: `TerminatedError` is
    raised only after these seconds, or by `raise_if_stopped` after the block. Otherwise, or with 0 seconds, it is
    raised at once.
    """
    global _ask, _seconds, _deadline
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    _ask, _seconds = ask, seconds
    try:
        yield
    finally:
        _ask = _deadline = None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside the block SIGTERM is only noted; it takes effect at the block's end. For a step that must not be cut in
    two, such as starting a process: it would be left without what it waits for, and unknown to its parent."""
    global _held, _noted
    if _held or threading.current_thread() is not threading.main_thread():
        yield
        return
    _held = True
    try:
        yield
    finally:
        arrived, _held, _noted = _noted, False, False
        if arrived:
            _stop(signal.SIGTERM, None)


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


def is_stopping() -> bool:
    """True if SIGTERM has arrived, even if work may still end by itself."""
    return _installed and _arrived


def raise_if_stopped() -> None:
    """For loops that wait: a library's callback may have swallowed the exception raised by a signal."""
    if _installed and _arrived and not _may_continue():
        raise TerminatedError


def _may_continue() -> bool:
    return _ask is not None and _deadline is not None and time.monotonic() < _deadline


def _stop(number: int, frame: FrameType | None) -> None:
    global _arrived, _deadline, _noted
    if _held:
        _noted = True
        return
    if (start := _start_of_process(frame)) is not None and _may_delay(start):
        _send_again()
        return
    if _arrived and (_deadline is None or _may_continue()):
        return
    first, _arrived = not _arrived, True
    if first and _ask is not None and _ask():
        _deadline = time.monotonic() + _seconds
        timer = threading.Timer(_seconds + _AGAIN_SECONDS, _send_if_due, (_deadline,))
        timer.daemon = True
        timer.start()
        return
    _deadline = None
    raise TerminatedError


def _start_of_process(frame: FrameType | None) -> FrameType | None:
    """The frame that is starting a process, or None. An exception there leaves a child that nobody knows, or
    breaks what a library does before and after a fork."""
    while frame is not None:
        here = os.path.basename(frame.f_code.co_filename), frame.f_code.co_name
        if here == _CHILD:
            return None  # a forked child is below its parent's frames
        if here in _STARTS:
            return frame
        frame = frame.f_back
    return None


def _may_delay(start: FrameType) -> bool:
    """False when this start of a process has lasted too long: it hangs."""
    global _delayed
    now = time.monotonic()
    if _delayed is None or _delayed[0] is not start or now - _delayed[1] > 2 * _STARTING_SECONDS:
        _delayed = start, now
    return now - _delayed[1] < _STARTING_SECONDS


def _hang_up(number: int, frame: FrameType | None) -> None:
    drop_output()  # writing to a closed terminal is an error, and the work still has to be ended
    _stop(number, frame)


def _send_if_due(deadline: float) -> None:
    """Send SIGTERM again if the block that had until `deadline` is still running."""
    if _deadline == deadline:
        os.kill(os.getpid(), signal.SIGTERM)


def _raise_again() -> None:
    """Send SIGTERM again: Python discards exceptions raised in a destructor or while forking, where it arrived."""
    global _arrived, _ask
    _arrived, _ask = False, None
    _send_again()


def _send_again() -> None:
    timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
