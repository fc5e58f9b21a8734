"""The cost of a stage: the work that one instance needs, and the context from which a stage computes it.

A stage returns its cost from `Stage.cost`, in units that `wsss/plan/costs.toml` gives a figure for. Costs do not depend
on the hardware: `wsss/plan/` converts them to hours on a named cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Units = Mapping[str, float]
"""Name of a figure in `costs.toml` -> number of its units."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """The work for one image or example."""

    core: Units = field(default_factory=dict)
    """Work on a CPU core of the node, with or without a GPU: reading, decoding, augmenting, writing."""
    arrays: Units = field(default_factory=dict)
    """Work on the network's device: maps, random walks, losses."""
    flops: float = 0.0
    """Floating point operations of the network."""
    passes: float = 0.0
    """Number of forward calls of the network per image: below 1 if several images share a call."""

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
        """The names of the figures in `core` and `arrays`."""
        yield from (*self.core, *self.arrays)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Data moved to and from the shared folder or a bucket, over the whole stage."""

    read: float = 0.0
    """Bytes."""
    written: float = 0.0
    """Bytes."""
    requests: float = 0.0
    """Number of files opened and of parts of files read; for a bucket, the number of GETs."""


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """The work of a stage that processes shards: `Map` or `Reduce`."""

    images: int
    shards: int
    load: Load
    """For one image, on average over all."""
    has_network: bool
    """True if its actors use GPUs when the cluster has any; otherwise they use CPU cores."""
    storage: Storage
    driver: Units = field(default_factory=dict)
    """Work that only the driver does, sequentially."""
    notes: tuple[str, ...] = ()
    """What the numbers leave out; printed under the plan, followed by the instance's name."""


@dataclass(frozen=True, kw_only=True)
class FitWork:
    """The work of a training."""

    examples: int
    """Number of examples in one epoch."""
    epochs: int
    batch_size: int
    accumulation: int
    ranks: int
    """World size set in the recipe."""
    load: Load
    """For one example; `core` is the loader's work, `passes` are per micro-batch of a rank."""
    precision: str
    loader_workers: int
    exchanged: float
    """Bytes of the gradients of all trained parameters, which the ranks exchange."""
    storage: Storage
    fetched: Storage
    """Additional data that every node reads for itself."""
    start: Units
    """Work of every rank before the first step."""
    validation: Load
    """All validations together, on one rank while the others wait."""
    notes: tuple[str, ...] = ()
    """What the numbers leave out; printed under the plan, followed by the instance's name."""

    @property
    def steps(self) -> int:
        """Total number of optimisation steps."""
        return self.epochs * -(-self.examples // self.batch_size)

    def feeds(self, gpus: int) -> int:
        """The largest number of ranks, at most `gpus`, that divides the micro-batches' examples evenly."""
        parts = self.batch_size // self.accumulation
        return next(ranks for ranks in range(min(gpus, parts), 0, -1) if parts % ranks == 0)


Work = ShardWork | FitWork


@dataclass(frozen=True, kw_only=True)
class ExpectedData:
    """What the settings of a `DataStage` say about its images before any image exists."""

    images: Mapping[str, int] = field(default_factory=dict)
    """Split -> number of images, if the settings determine it."""
    size: tuple[int, int] | None = None
    """Height and width in pixels, if the settings determine it."""
    labelled_share: str = ""
    """Name of the figure in `costs.toml` for the share of images that show a class; empty means all images."""
    labels: str = "labels"
    """Name of the figure in `costs.toml` for the number of classes in an image that shows any."""
    masked_splits: frozenset[str] = frozenset()
    """Splits with masks."""
    shard_images: int = 0
    """Images per shard; 0 if `shard_bytes` determines the shard boundaries."""
    shard_bytes: float = 1e8
    """Bytes per shard."""
    cache_bytes: float | None = None
    """Size in bytes of every node's cache, if samples come over the network; None if they do not."""


@dataclass(frozen=True, kw_only=True)
class DatasetStats:
    """Statistics of the images of every split, estimated without reading any image."""

    images: Mapping[str, int]
    size: tuple[int, int]
    """Height and width in pixels, of every image."""
    labelled_share: float
    """Share of the images that show a class; the others need no maps, random walks or refinement."""
    labels: float
    """Mean number of classes in an image that shows any."""
    masked_splits: frozenset[str]
    """Splits with masks."""
    shard_images: int
    """Images per shard."""

    @property
    def megapixels(self) -> float:
        """Megapixels of one image."""
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
        """Mean over all images, including those without a label."""
        return self.labels * self.labelled_share


class PlannedNetwork(Protocol):
    """A network whose operations are counted without weights or images."""

    def forward(self, size: tuple[int, int], *, method: str = "") -> float:
        """Floating point operations for one image of `size` = (H, W), in evaluation mode.

        `method`: a method of the network to call with the images instead of `Fit.forward_pass`.
        """
        ...

    def count(self, size: tuple[int, int], *, name: str, call: Callable[[Any, Any], object]) -> float:
        """Operations per image of `call(network, images f32[B, 3, H, W])`; `call` gets a copy that it may modify.

        `name`: identifies the call; results are cached by name, network and size.
        """
        ...


class PlanContext(Protocol):
    """What a stage can query to estimate the cost of one instance. A `slot` is one of the instance's inputs; the empty
    slot is the instance itself."""

    @property
    def stats(self) -> DatasetStats:
        """Statistics of the samples that the instance is derived from."""
        ...

    def images(self, slot: str = "") -> dict[str, int]:
        """Split -> images in a layer; for an instance without a layer, the images that all its input layers have."""
        ...

    def train_images(self, *, max_shards: int | None = None) -> int:
        """Images of the split `train` that are in all layers that a training reads."""
        ...

    def num_shards(self, images: Mapping[str, int]) -> int:
        """Number of shards for the given number of images of every split."""
        ...

    def record_bytes(self, slot: str = "") -> float:
        """Bytes per record of a layer, on average over training images."""
        ...

    def network(self, slot: str = "") -> PlannedNetwork:
        """The network that a training trains."""
        ...

    def map_work(self, load: Load, *, has_network: bool, notes: tuple[str, ...] = ()) -> ShardWork:
        """The work of a `Map` stage that makes one record per image from the records of its input layers.

        `load`: for one image, without reading and writing the records, which is added.
        """
        ...

    def reduce_work(self, images: Mapping[str, int], load: Load) -> ShardWork:
        """The work of a `Reduce` stage that reads the records of the given number of images of every split."""
        ...

    def validation(self, images: int, *, size: tuple[int, int]) -> Load:
        """All validations of a training, each of `images` images resized to `size` = (H, W)."""
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
        """The work of a training on `examples` crops per epoch; `strong`: with strong augmentation.

        `arrays`: work of the loss for one example. `frozen`: slots of trained networks that process every example.
        """
        ...


def _added(one: Units, other: Units) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}
