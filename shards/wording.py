"""Words in messages."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """`1 image`, `2 images`, `4,690 images`. The plural is the noun with an s."""
    return f"{number:,.0f} {noun}" if round(number) == 1 else f"{number:,.0f} {noun}s"
