"""What a check found, and how it is printed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH = 80


@dataclass(frozen=True)
class Finding:
    """One fault, or a remark that stops nothing."""

    where: str
    """The setting, file or node, and the line where there is one."""
    text: str
    """What was found, what is allowed and what to do."""
    refused: bool = True
    """Whether the cluster must not be started like this."""


def shown(findings: Sequence[Finding]) -> str:
    """The findings as text of at most 80 columns, those that refuse first; words such as commands stay whole."""
    lines: list[str] = []
    for finding in sorted(findings, key=lambda finding: not finding.refused):
        lines += _wrapped(f"{'refused' if finding.refused else 'note'}: {finding.where}", indent="")
        for part in finding.text.splitlines():
            lines += _wrapped(part, indent="  ")
    return "".join(f"{line}\n" for line in lines)


def _wrapped(text: str, *, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent or "  ",
        break_long_words=True,
        break_on_hyphens=False,
    )


def counted(findings: Sequence[Finding]) -> str:
    """The last line of a check."""
    refused = sum(finding.refused for finding in findings)
    notes = len(findings) - refused
    remarks = f", {notes} note{'s' * (notes != 1)}" if notes else ""
    return f"{refused} fault{'s' * (refused != 1)}{remarks}" if refused else f"in order{remarks}"
