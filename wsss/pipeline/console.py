"""Consoles that print text from the user without interpreting markup in it."""

from __future__ import annotations

import sys
from typing import IO

from rich.console import Console


def plain_console(*, stderr: bool = False, width: int | None = None, file: IO[str] | None = None) -> Console:
    """A console that prints `[red]` and `:cat:` in a class name, a path or an error message literally.

    `width`: number of columns if the output is not a terminal; a terminal has its own. For colours or bold text, pass a
    style or a `rich.text.Text`.
    """
    return Console(
        stderr=stderr,
        file=file,
        width=None if sys.stdout.isatty() else width,
        highlight=False,
        markup=False,
        emoji=False,
    )
