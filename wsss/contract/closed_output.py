"""What happens if nobody reads the output any more, as after `| head`: the work stops as after Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

READER_GONE = "its output was closed by its reader, as by `| head`; the same command resumes from there"
EXIT_STATUS = 128 + signal.SIGPIPE
"""What a shell reports for a program that SIGPIPE ended."""


class ReaderGoneError(KeyboardInterrupt):
    """The pipe behind the output is closed. A KeyboardInterrupt, so that whatever stops cleanly then does so here."""


def reader_is_gone() -> bool:
    """Whether the standard output or error is a pipe that nobody reads, or a terminal that was closed."""
    return any(_is_gone(number) for number in (1, 2))


def drop_output() -> int:
    """Send what is still written nowhere, so that Python does not fail at its exit; returns the exit status."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if _is_gone(number):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)
                stream.flush()
    return EXIT_STATUS


def _is_gone(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    try:
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except OSError:
        return False
