"""Consoles that print the user's words as they are written."""

from __future__ import annotations

import sys
from typing import IO

from rich.console import Console


def plain_console(*, stderr: bool = False, width: int | None = None, file: IO[str] | None = None) -> Console:
    """A console on which `[red]` in a class name, a path or an error message is no markup, and `:cat:` no emoji.

    `width`: columns where the output is no terminal; a terminal has its own. What is to be coloured or bold is given a
    style, or is a `rich.text.Text`.
    """
    return Console(
        stderr=stderr,
        file=file,
        width=None if sys.stdout.isatty() else width,
        highlight=False,
        markup=False,
        emoji=False,
    )
