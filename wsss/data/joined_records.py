"""Training sets over layers: the selected records, their order, and access to a record by index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from shards.balance import draws
from shards.lanes import lane_order
from shards.layer import Layer, split_of
from shards.manifest_entry import RecordEntries
from shards.reader import read_entry
from shards.records import Record, Sample

_Indices = Mapping[str, np.ndarray] | None
"""Layer -> indices of the selected records in one shard's manifest entry, in order; None: all records."""


class JoinedRecords:
    """Records of one split that are in all layers, with random access by index.

    A key that a layer lacks is excluded here; that layer's manifest gives the reason.
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
        """`lanes`: examples of one global batch (see `shards.lanes`); `max_shards` uses only the first shards;
        with cross-fitting the first shards of all folds. `keep` decides by its key whether a record is used."""
        self.split = split
        self._layers, self._seed, self._lanes = dict(layers), seed, lanes
        self._factors: np.ndarray | None = None
        self._shards = _shards_of(layers.values(), split=split)[:max_shards]
        folds = [layer.without for layer in layers.values() if layer.without is not None]
        self._shards = [shard for shard in self._shards if not any(fold.leaves_out(shard) for fold in folds)]
        self._indices: list[_Indices] = [None] * len(self._shards)
        if len(layers) > 1 or keep is not None:
            self._indices = [self._common(shard, keep) for shard in self._shards]
            self._counts = [len(next(iter(indices.values()))) for indices in self._indices if indices is not None]
        else:
            (layer,) = layers.values()
            of_shard = layer.counts_of_shards()
            self._counts = [of_shard[shard] for shard in self._shards]
        self._starts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        self._entries: dict[tuple[int, str], RecordEntries] = {}

    def _common(self, shard: str, keep: Callable[[str], bool] | None) -> _Indices:
        names = {name: layer.manifest_entry(shard).entries.keys for name, layer in self._layers.items()}
        positions = {name: {key: position for position, key in enumerate(keys)} for name, keys in names.items()}
        first = next(iter(names.values()))
        keys = [key for key in first if all(key in of_layer for of_layer in positions.values())]
        if keep is not None:
            keys = [key for key in keys if keep(key)]
        return {name: np.array([of_layer[key] for key in keys], dtype=np.int64) for name, of_layer in positions.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Without cached entries: a loader process reads those that it needs."""
        return self.__dict__ | {"_entries": {}}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def repeat(self, factors: np.ndarray) -> None:
        """Draw each record as often as its factor says (f64[n], >= 0), from the next `order` on."""
        self._factors = factors

    def classes(self) -> list[list[int]]:
        """Foreground classes of every record, from the samples' index, without reading a shard."""
        found: list[list[int]] = []
        for shard, indices in zip(self._shards, self._indices, strict=True):
            of_shard = self._layers["samples"].manifest_entry(shard).entries.metadata("classes")
            found += of_shard if indices is None else [of_shard[position] for position in indices["samples"].tolist()]
        return found

    def num_draws(self, epoch: int) -> int:
        """Length of `order(epoch)`."""
        if self._factors is None:
            return len(self)
        return int(draws(self._factors, seed=self._seed, epoch=epoch).sum())

    def order(self, epoch: int) -> np.ndarray:
        """i64[n]: record indices of one epoch, batch after batch, determined by (seed, epoch, lanes) and the layers."""
        times = None if self._factors is None else draws(self._factors, seed=self._seed, epoch=epoch)
        return lane_order(self._counts, seed=self._seed, epoch=epoch, num_lanes=self._lanes, times=times)

    def name_of(self, index: int) -> str:
        """The shard and the key of one record."""
        shard, entries, position = self._locate(index, next(iter(self._layers)))
        return f"{self._shards[shard]}: {entries.keys[position]}"

    def sample(self, index: int) -> Sample:
        """The sample of one record. Raises `BadSampleError` or `ShardError` if it cannot be read."""
        record = self.record(index, "samples")
        assert isinstance(record, Sample)
        return record

    def record(self, index: int, layer: str) -> Record:
        """One record of one layer."""
        shard, entries, position = self._locate(index, layer)
        return read_entry(self._layers[layer], self._shards[shard], entries[position])

    def _locate(self, index: int, layer: str) -> tuple[int, RecordEntries, int]:
        """The number of a record's shard, that shard's entries in a layer, and the record's index among them."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        position, indices = index - int(self._starts[shard]), self._indices[shard]
        if (shard, layer) not in self._entries:
            self._entries[shard, layer] = self._layers[layer].manifest_entry(self._shards[shard]).entries
        return shard, self._entries[shard, layer], position if indices is None else int(indices[layer][position])


def _shards_of(layers: Iterable[Layer], *, split: str) -> list[str]:
    """The shards of a split that all layers have, of all folds."""
    found = set.intersection(*(set(replace(layer, without=None).shards()) for layer in layers))
    return sorted(shard for shard in found if split_of(shard) == split)
