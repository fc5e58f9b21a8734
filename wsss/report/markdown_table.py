"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*|<>\[\]$])|(?<![^\W_])(_)|(_)(?![^\W_])")
"""What Markdown, and GitHub's mathematics in it, would read as its own; `_` inside a word is none of it."""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool] = ()) -> str:
    """Rows of plain text as a Markdown table that shows them as they are written.

    `right`: which columns are aligned to the right; none where not given.
    """
    ruler = ["---:" if place < len(right) and right[place] else "---" for place in range(len(header))]
    lines = [_line(header), f"|{'|'.join(ruler)}|", *map(_line, rows)]
    return "".join(f"{line}\n" for line in lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown_text, cells))} |"


def markdown_text(text: str) -> str:
    """Plain text, in one line, with what Markdown would take for its own marks escaped."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], " ".join(text.split()))
