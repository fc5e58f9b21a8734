"""Consoles that print text from the user without interpreting markup in it, and a count of finished work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, NoReturn

from rich.console import Console

from wsss.contract.closed_output import ReaderGoneError


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Rich would end the process at once; what is at work has to be stopped and recorded first."""
        raise ReaderGoneError


def plain_console(*, stderr: bool = False, width: int | None = None, file: IO[str] | None = None) -> Console:
    """A console that prints `[red]` and `:cat:` in a class name, a path or an error message literally.

    `width`: number of columns if the output is not a terminal; a terminal has its own. For colours or bold text, pass a
    style or a `rich.text.Text`.
    """
    return _Console(
        stderr=stderr,
        file=file,
        width=None if sys.stdout.isatty() else width,
        highlight=False,
        markup=False,
        emoji=False,
    )


@contextmanager
def counting(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A function to call with what is done and the total; a terminal shows them until the block ends."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with console.status(what) as status:
        yield lambda done, total: status.update(f"{what}: {done} of {total}")
