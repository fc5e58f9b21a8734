"""Lists of images in settings, against the images of the data set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from wsss.contract.stage import Instance


@runtime_checkable
class _HasLists(Protocol):
    """A stage that makes samples from lists of images."""

    def listed_keys(self, split: str) -> Sequence[str] | None: ...


def not_in_data(instance: Instance, keys: Collection[str], splits: Sequence[str]) -> list[str]:
    """Those of some keys that none of these splits has, sorted, so that a slip is refused before the first stage runs.

    [] if the data set has no list of its images yet: if its shards were built elsewhere, or in a plan without the data.
    """
    stage = instance.data
    known = [stage.listed_keys(split) if isinstance(stage, _HasLists) else None for split in splits]
    return sorted(set(keys).difference(*(of for of in known if of is not None))) if None not in known else []
