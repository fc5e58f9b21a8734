"""One thing that was examined, and how the list is printed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "note", "fault"]
_WIDTH, _INDENT = 80, 6


@dataclass(frozen=True)
class Examined:
    """What was found about one thing."""

    state: State
    """`fault`: recipes cannot run, or not safely; `note`: something that is not there is not needed by everybody."""
    what: str
    """Such as "disk"."""
    found: str
    mend: str = ""
    """The command or the change that mends it."""


def text_of(examined: Sequence[Examined]) -> str:
    """The list in at most 80 columns; commands stay on one line, so that they can be copied."""
    lines: list[str] = []
    widest = max((len(one.what) for one in examined), default=0)
    for one in examined:
        head = f"{one.state:<{_INDENT}}{one.what:<{widest + 2}}"
        lines += textwrap.wrap(
            head + one.found,
            _WIDTH,
            subsequent_indent=" " * len(head),
            drop_whitespace=True,
            break_long_words=False,
            break_on_hyphens=False,
        )
        if one.mend:
            lines.append(" " * _INDENT + f"-> {one.mend}")
    return "".join(f"{line}\n" for line in [*lines, "", summary(examined)])


def summary(examined: Sequence[Examined]) -> str:
    """The last line."""
    faults, notes = (sum(one.state == state for one in examined) for state in ("fault", "note"))
    parts = [f"{number} {noun}{'s' * (number != 1)}" for number, noun in ((faults, "fault"), (notes, "note")) if number]
    return ", ".join(parts) if parts else "in order"


def plain(examined: Sequence[Examined]) -> list[dict[str, str]]:
    """For JSON."""
    return [asdict(one) for one in examined]
