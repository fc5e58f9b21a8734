"""What a stage costs: the work that one instance asks for, and what a plan offers a stage to work it out from.

A stage states its cost in `Stage.cost`, in units that `wsss/plan/costs.toml` has a figure for. Nothing here says what
the work runs on: `wsss/plan/` turns it into hours on a named cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Units = Mapping[str, float]
"""Name of a figure of `costs.toml` -> how many of its units."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one image or example asks for."""

    core: Units = field(default_factory=dict)
    """On a CPU core of the node, be there a GPU or not: read, decode, change, write."""
    arrays: Units = field(default_factory=dict)
    """On the device of the network: maps, walks, losses."""
    flops: float = 0.0
    """Floating point operations of the network."""
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
        """The figures that it is made of."""
        yield from (*self.core, *self.arrays)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What goes to and from the shared folder, or a bucket, over the whole stage."""

    read: float = 0.0
    """Bytes."""
    written: float = 0.0
    """Bytes."""
    requests: float = 0.0
    """Files opened, parts of files read; GETs where they are in a bucket."""


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """The work of a stage that goes through shards: `Map` and `Reduce`."""

    images: int
    shards: int
    load: Load
    """Of one image, on average over all."""
    has_network: bool
    """Its actors hold GPUs where there are any; the others work on CPU cores."""
    storage: Storage
    driver: Units = field(default_factory=dict)
    """What the driver does alone, one after the other."""
    notes: tuple[str, ...] = ()
    """What the numbers leave out; printed under the plan with the instance's name behind."""


@dataclass(frozen=True, kw_only=True)
class FitWork:
    """The work of a training."""

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
    notes: tuple[str, ...] = ()
    """What the numbers leave out; printed under the plan with the instance's name behind."""

    @property
    def steps(self) -> int:
        """Optimisation steps in all."""
        return self.epochs * -(-self.examples // self.batch_size)

    def feeds(self, gpus: int) -> int:
        """The most ranks, of so many, that the batch can be dealt to evenly, an example at least to each part."""
        parts = self.batch_size // self.accumulation
        return next(ranks for ranks in range(min(gpus, parts), 0, -1) if parts % ranks == 0)


Work = ShardWork | FitWork


@dataclass(frozen=True, kw_only=True)
class ExpectedData:
    """What the settings of a stage that makes samples tell of its images before any of them is there."""

    images: Mapping[str, int] = field(default_factory=dict)
    """Split -> number, where settings say so."""
    size: tuple[int, int] | None = None
    """Height and width in pixels, where settings say so."""
    labelled_share: str = ""
    """Name of the figure in `costs.toml`: share of the images that show a class; all of them where empty."""
    labels: str = "labels"
    """Name of the figure in `costs.toml`: classes of an image that shows any."""
    masked_splits: frozenset[str] = frozenset()
    """Splits whose images come with masks."""
    shard_images: int = 0
    """Images of a shard; 0 where shards are cut by `shard_bytes`."""
    shard_bytes: float = 1e8
    """Bytes of a shard."""
    cache_bytes: float | None = None
    """Samples come over the network, through a cache of so many bytes on every node; None: they do not."""


@dataclass(frozen=True, kw_only=True)
class DatasetStats:
    """The images of every split, and what they are like: estimated, without a look at one of them."""

    images: Mapping[str, int]
    size: tuple[int, int]
    """Height and width in pixels, of every image."""
    labelled_share: float
    """Share of the images that show a class; the others cost no maps, walks or refinement."""
    labels: float
    """Classes of an image that shows any."""
    masked_splits: frozenset[str]
    """Splits whose images come with masks."""
    shard_images: int
    """Images of a shard."""

    @property
    def megapixels(self) -> float:
        """Of one image."""
        return self.size[0] * self.size[1] / 1e6

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the stride-4 grid of one image."""
        return -(-self.size[0] // 4), -(-self.size[1] // 4)

    @property
    def meganodes(self) -> float:
        """Pixels of that grid, in millions."""
        return self.grid[0] * self.grid[1] / 1e6

    @property
    def classes_per_image(self) -> float:
        """Over all images, those without a label counted."""
        return self.labels * self.labelled_share


class PlannedNetwork(Protocol):
    """A network that is counted without weights and images."""

    def forward(self, size: tuple[int, int], *, method: str = "") -> float:
        """Operations of one image of `size` = (H, W), in evaluation mode.

        `method`: a method of the network that is called with the images, in place of `Fit.forward_pass`.
        """
        ...

    def count(self, size: tuple[int, int], *, name: str, call: Callable[[Any, Any], object]) -> float:
        """Operations per image of `call(network, images f32[B, 3, H, W])`, on a copy of it, which it may change.

        `name`: what the call does; it is counted once for equal names, networks and sizes.
        """
        ...


class PlanContext(Protocol):
    """What a plan offers one instance. A `slot` is one of its inputs; the empty slot is the instance itself."""

    @property
    def stats(self) -> DatasetStats:
        """The images of the samples that the instance descends from."""
        ...

    def images(self, slot: str = "") -> dict[str, int]:
        """Split -> images of a layer; for an instance that writes none, of what all layers have that it reads."""
        ...

    def train_images(self, *, max_shards: int | None = None) -> int:
        """Images of the split `train` that all layers have which a training reads."""
        ...

    def num_shards(self, images: Mapping[str, int]) -> int:
        """Shards that hold so many images of every split."""
        ...

    def record_bytes(self, slot: str = "") -> float:
        """Bytes of one record of a layer, on average over training images."""
        ...

    def network(self, slot: str = "") -> PlannedNetwork:
        """The network that a training trains."""
        ...

    def map_work(self, load: Load, *, has_network: bool, notes: tuple[str, ...] = ()) -> ShardWork:
        """The work of a `Map` stage that makes a record of every image from those of the layers it reads.

        `load`: of one image, besides reading and writing the records, which is added.
        """
        ...

    def reduce_work(self, images: Mapping[str, int], load: Load) -> ShardWork:
        """The work of a `Reduce` stage that reads the records of so many images of every split."""
        ...

    def validation(self, images: int, *, size: tuple[int, int]) -> Load:
        """All validations of a training, each of so many images brought to `size` = (H, W)."""
        ...

    def fit_work(
        self,
        *,
        examples: int,
        crop_size: int,
        strong: bool = False,
        arrays: Units | None = None,
        validation: Load | None = None,
        frozen: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> FitWork:
        """The work of a training on so many crops an epoch, `strong`ly augmented or not.

        `arrays`: what the loss of one example asks for. `frozen`: slots of trained networks that see every example.
        """
        ...


def _added(one: Units, other: Units) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}
