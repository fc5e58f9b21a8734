"""Training sets over layers: which records of which shards, in which order, and one record by its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from shards.assign import epoch_order
from shards.balance import draws
from shards.layer import Entry, Layer, split_of
from shards.reader import read_entry
from shards.records import Record, Sample


@dataclass(frozen=True)
class Place:
    """Where the records of one key lie: its shard, and its entry in every layer."""

    shard: str
    key: str
    entries: Mapping[str, Entry]


class JoinedRecords:
    """Records of one split that all the layers hold, numbered; any of them by its number.

    A key that a layer lacks is left out here: that layer's manifest names the reason.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        *,
        split: str,
        seed: int,
        max_shards: int | None = None,
        keep: Callable[[str], bool] | None = None,
    ) -> None:
        """`max_shards` takes the first shards alone; `keep` says, by its key, whether a record takes part."""
        self._layers, self._seed = dict(layers), seed
        self._factors: np.ndarray | None = None
        shards = [set(layer.shards()) for layer in layers.values()]
        chosen = sorted(shard for shard in set.intersection(*shards) if split_of(shard) == split)[:max_shards]
        self.places: list[Place] = []
        self._counts: list[int] = []
        for shard in chosen:
            places = [place for place in self._places(shard) if keep is None or keep(place.key)]
            self._counts.append(len(places))
            self.places.extend(places)

    def _places(self, shard: str) -> list[Place]:
        entries = {name: {e.key: e for e in layer.row(shard).entries} for name, layer in self._layers.items()}
        first = next(iter(entries.values()))
        keys = [key for key in first if all(key in of_layer for of_layer in entries.values())]
        return [Place(shard, key, {name: of_layer[key] for name, of_layer in entries.items()}) for key in keys]

    def __len__(self) -> int:
        return len(self.places)

    def repeat(self, factors: np.ndarray) -> None:
        """Draw each record as often as its factor says (f64[n], >= 0), from the next `order` on."""
        self._factors = factors

    def classes(self) -> list[list[int]]:
        """Foreground classes of every record, from the samples' index, without reading a shard."""
        return [list(place.entries["samples"].facts["classes"]) for place in self.places]

    def order(self, epoch: int) -> np.ndarray:
        """i64[n]: record numbers of one epoch, a function of (seed, epoch) and the layers alone."""
        pairs = epoch_order(self._counts, seed=self._seed, epoch=epoch)
        starts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        order = starts[pairs[:, 0]] + pairs[:, 1]
        if self._factors is None:
            return order
        times = draws(self._factors, seed=self._seed, epoch=epoch)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch, 2])))
        return generator.permutation(np.repeat(order, times[order]))

    def sample(self, index: int) -> Sample:
        """The sample of one record. Raises `BadSampleError` or `ShardError` where it cannot be read."""
        record = self.record(index, "samples")
        assert isinstance(record, Sample)
        return record

    def record(self, index: int, layer: str) -> Record:
        """One record of one layer."""
        place = self.places[index]
        return read_entry(self._layers[layer], place.shard, place.entries[layer])
