"""Lists classes with their image counts, for data sets without a class list, so that misspelt names are noticed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shards.sources.class_names import slips
from shards.wording import counted

_SHOWN = 30
"""How many of the most frequent and how many of the rarest classes are listed."""


def class_lines(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """One line with all classes and their image counts; then one line for every name that may be misspelt.

    `counts`: split -> name of a class -> images that show it.
    """
    totals: dict[str, int] = {}
    for of_split in counts.values():
        for name, count in of_split.items():
            totals[name] = totals.get(name, 0) + count
    if not totals:
        return
    order = sorted(totals, key=lambda name: (-totals[name], name))
    entries = [f"{name} {totals[name]}" for name in order]
    if len(entries) > 2 * _SHOWN:
        entries = [*entries[:_SHOWN], f"... {len(entries) - 2 * _SHOWN} more ...", *entries[-_SHOWN:]]
    yield f"{len(totals)} {'class' if len(totals) == 1 else 'classes'} (images): {', '.join(entries)}"
    yield from slip_lines(totals)


def slip_lines(totals: Mapping[str, int]) -> Iterator[str]:
    """A line for every rare class with nearly the same spelling as a frequent one. `totals`: name -> images."""
    for rare, frequent in slips(totals):
        yield (
            f"the class {rare!r} ({counted(totals[rare], 'image')}) is spelt nearly like {frequent!r} "
            f"({totals[frequent]}): if it is a misspelling, use one name for both"
        )
