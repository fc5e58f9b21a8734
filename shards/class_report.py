"""The classes of a data set whose names come from its files alone, with their images: a slip in a name shows here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shards.sources.class_names import slips

_SHOWN = 30
"""Classes that are shown of the most frequent and of the rarest."""


def class_lines(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """A line of all classes with their images; then one for every name that may be a slip of another.

    `counts`: split -> name of a class -> images that show it.
    """
    totals: dict[str, int] = {}
    for of_split in counts.values():
        for name, count in of_split.items():
            totals[name] = totals.get(name, 0) + count
    if not totals:
        return
    order = sorted(totals, key=lambda name: (-totals[name], name))
    told = [f"{name} {totals[name]}" for name in order]
    if len(told) > 2 * _SHOWN:
        told = [*told[:_SHOWN], f"... {len(told) - 2 * _SHOWN} more ...", *told[-_SHOWN:]]
    yield f"{len(totals)} {'class' if len(totals) == 1 else 'classes'} (images): {', '.join(told)}"
    yield from slip_lines(totals)


def slip_lines(totals: Mapping[str, int]) -> Iterator[str]:
    """A line for every rare class that is spelt nearly like a frequent one. `totals`: name -> images."""
    for rare, frequent in slips(totals):
        yield (
            f"the class {rare!r} ({totals[rare]} images) is spelt nearly like {frequent!r} ({totals[frequent]}): where "
            "it is a slip, write one name for both"
        )
