"""What one stage instance asks for, whatever it runs on: the units that `wsss/plan/costs.toml` has a price for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from wsss.plan.costs import Costs

Units = Mapping[str, float]
"""Name of a cost -> how many of its units."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one image or example asks for."""

    core: Units = field(default_factory=dict)
    """On a core of the node, be there a GPU or not: read, decode, change, write."""
    arrays: Units = field(default_factory=dict)
    """Where the network is: maps, walks, losses."""
    flops: float = 0.0
    """Of the network."""
    passes: float = 0.0
    """How often the network is called for one image: below 1 where several go through it at once."""

    def __add__(self, other: Load) -> Load:
        return Load(
            core=_added(self.core, other.core),
            arrays=_added(self.arrays, other.arrays),
            flops=self.flops + other.flops,
            passes=self.passes + other.passes,
        )

    def __mul__(self, factor: float) -> Load:
        return Load(
            core={name: units * factor for name, units in self.core.items()},
            arrays={name: units * factor for name, units in self.arrays.items()},
            flops=self.flops * factor,
            passes=self.passes * factor,
        )

    @property
    def names(self) -> Iterator[str]:
        """The costs it is made of."""
        yield from (*self.core, *self.arrays)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What goes to and from the shared folder, or a bucket, over the whole stage."""

    read: float = 0.0
    """Bytes."""
    written: float = 0.0
    """Bytes."""
    requests: float = 0.0
    """Files opened, parts of files read; GETs where they lie in a bucket."""


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """A stage that goes through shards: `Map` and `Reduce`."""

    images: int
    shards: int
    load: Load
    """Of one image, on average over all."""
    has_network: bool
    """Its actors hold GPUs where there are any; the others work on cores."""
    storage: Storage
    driver: Units = field(default_factory=dict)
    """What the driver does alone, one after the other."""


@dataclass(frozen=True, kw_only=True)
class FitWork:
    """A training."""

    examples: int
    """Of one epoch."""
    epochs: int
    batch_size: int
    accumulation: int
    ranks: int
    """As the recipe sets them."""
    load: Load
    """Of one example; `core` is what the loader does, `passes` are per part of a rank's batch."""
    precision: str
    loader_workers: int
    exchanged: float
    """Bytes of the gradients of all that learns."""
    storage: Storage
    fetched: Storage
    """Besides, by every node for itself."""
    start: Units
    """What every rank does before the first step."""
    validation: Load
    """All of it, on one rank while the others wait."""

    @property
    def steps(self) -> int:
        """Optimisation steps in all."""
        return self.epochs * -(-self.examples // self.batch_size)

    def feeds(self, gpus: int) -> int:
        """The most ranks, of so many, that the batch can be dealt to evenly, an example at least to each part."""
        parts = self.batch_size // self.accumulation
        return next(ranks for ranks in range(min(gpus, parts), 0, -1) if parts % ranks == 0)


Work = ShardWork | FitWork


def core_seconds(units: Units, costs: Costs) -> float:
    """Seconds of one core."""
    return sum(costs[name] * number for name, number in units.items())


def _added(one: Units, other: Units) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}
