"""Ascending numbers as text: 1-4,6,8-200. Nearly 200 unknown classes an image are a few bytes of the index, not 700."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise


@lru_cache(maxsize=4096)  # half a million images of ILSVRC share a few hundred lists
def to_ranges(numbers: tuple[int, ...]) -> str:
    """Ascending whole numbers, none below 0, to text; nothing is the empty text."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)


def spans_of(text: str) -> list[tuple[int, int]]:
    """First and last number of every span. Raises ValueError for any other text."""
    spans: list[tuple[int, int]] = []
    for span in text.split(",") if text else ():
        first, dash, last = span.partition("-")
        spans.append((int(first), int(last) if dash else int(first)))
    if ",".join(f"{first}-{last}" if last > first else str(first) for first, last in spans) != text or any(
        later <= last + 1 for (_, last), (later, _) in pairwise(spans)
    ):
        raise ValueError(f"{text[:80]!r} are no ascending numbers such as 1-4,6")
    return spans


def from_ranges(text: str) -> list[int]:
    """The inverse of `to_ranges`. Raises ValueError for any other text."""
    return [number for first, last in spans_of(text) for number in range(first, last + 1)]
