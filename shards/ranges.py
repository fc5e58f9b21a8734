"""Ascending numbers as text: 1-4,6,8-200. Nearly 200 unknown classes per image take a few bytes instead of 700."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise


@lru_cache(maxsize=4096)  # the half million images of ILSVRC have only a few hundred different lists
def to_ranges(numbers: tuple[int, ...]) -> str:
    """Ascending non-negative integers to text; no numbers give the empty string."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)


def spans_of(text: str) -> list[tuple[int, int]]:
    """First and last number of every range. Raises ValueError if the text is not in this format."""
    spans: list[tuple[int, int]] = []
    for span in text.split(",") if text else ():
        first, dash, last = span.partition("-")
        spans.append((int(first), int(last) if dash else int(first)))
    if ",".join(f"{first}-{last}" if last > first else str(first) for first, last in spans) != text or any(
        later <= last + 1 for (_, last), (later, _) in pairwise(spans)
    ):
        raise ValueError(f"{text[:80]!r} is not a list of ascending numbers such as 1-4,6")
    return spans


def from_ranges(text: str) -> list[int]:
    """The inverse of `to_ranges`. Raises ValueError if the text is not in this format."""
    return [number for first, last in spans_of(text) for number in range(first, last + 1)]
