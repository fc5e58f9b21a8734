"""Training sets over layers: which records of which shards, in which order, and one record by its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shards.balance import draws
from shards.lanes import lane_order
from shards.layer import Layer, split_of
from shards.manifest_entry import RecordEntries
from shards.reader import read_entry
from shards.records import Record, Sample

_Places = Mapping[str, np.ndarray] | None
"""Layer -> the places, in its row of one shard, of the records that take part, in order; None: all of its records."""


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
        lanes: int = 1,
        max_shards: int | None = None,
        keep: Callable[[str], bool] | None = None,
    ) -> None:
        """`lanes`: examples of one global batch (see `shards.lanes`); `max_shards` takes the first shards alone;
        `keep` says, by its key, whether a record takes part."""
        self._layers, self._seed, self._lanes = dict(layers), seed, lanes
        self._factors: np.ndarray | None = None
        shards = [set(layer.shards()) for layer in layers.values()]
        self._shards = sorted(shard for shard in set.intersection(*shards) if split_of(shard) == split)[:max_shards]
        self._places: list[_Places] = [None] * len(self._shards)
        if len(layers) > 1 or keep is not None:
            self._places = [self._common(shard, keep) for shard in self._shards]
            self._counts = [len(next(iter(places.values()))) for places in self._places if places is not None]
        else:
            (layer,) = layers.values()
            of_shard = layer.counts_of_shards()
            self._counts = [of_shard[shard] for shard in self._shards]
        self._starts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        self._rows: dict[tuple[int, str], RecordEntries] = {}

    def _common(self, shard: str, keep: Callable[[str], bool] | None) -> _Places:
        names = {name: layer.manifest_entry(shard).entries.keys for name, layer in self._layers.items()}
        places = {name: {key: place for place, key in enumerate(keys)} for name, keys in names.items()}
        first = next(iter(names.values()))
        keys = [key for key in first if all(key in of_layer for of_layer in places.values())]
        if keep is not None:
            keys = [key for key in keys if keep(key)]
        return {name: np.array([place[key] for key in keys], dtype=np.int64) for name, place in places.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read of the rows: a loader's process reads those that it comes to."""
        return self.__dict__ | {"_rows": {}}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def repeat(self, factors: np.ndarray) -> None:
        """Draw each record as often as its factor says (f64[n], >= 0), from the next `order` on."""
        self._factors = factors

    def classes(self) -> list[list[int]]:
        """Foreground classes of every record, from the samples' index, without reading a shard."""
        found: list[list[int]] = []
        for shard, places in zip(self._shards, self._places, strict=True):
            of_shard = self._layers["samples"].manifest_entry(shard).entries.metadata("classes")
            found += of_shard if places is None else [of_shard[place] for place in places["samples"].tolist()]
        return found

    def num_draws(self, epoch: int) -> int:
        """Length of `order(epoch)`."""
        if self._factors is None:
            return len(self)
        return int(draws(self._factors, seed=self._seed, epoch=epoch).sum())

    def order(self, epoch: int) -> np.ndarray:
        """i64[n]: record numbers of one epoch, batch after batch, a function of (seed, epoch, lanes) and the layers."""
        times = None if self._factors is None else draws(self._factors, seed=self._seed, epoch=epoch)
        return lane_order(self._counts, seed=self._seed, epoch=epoch, num_lanes=self._lanes, times=times)

    def name_of(self, index: int) -> str:
        """The shard and the key of one record."""
        shard, entries, place = self._place(index, next(iter(self._layers)))
        return f"{self._shards[shard]}: {entries.keys[place]}"

    def sample(self, index: int) -> Sample:
        """The sample of one record. Raises `BadSampleError` or `ShardError` where it cannot be read."""
        record = self.record(index, "samples")
        assert isinstance(record, Sample)
        return record

    def record(self, index: int, layer: str) -> Record:
        """One record of one layer."""
        shard, entries, place = self._place(index, layer)
        return read_entry(self._layers[layer], self._shards[shard], entries[place])

    def _place(self, index: int, layer: str) -> tuple[int, RecordEntries, int]:
        """The number of a record's shard, that shard's entries in a layer, and the record's place among them."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        place, places = index - int(self._starts[shard]), self._places[shard]
        if (shard, layer) not in self._rows:
            self._rows[shard, layer] = self._layers[layer].manifest_entry(self._shards[shard]).entries
        return shard, self._rows[shard, layer], place if places is None else int(places[layer][place])
