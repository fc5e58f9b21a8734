"""Shards that were built before: a finished layer of samples in a folder, in a bucket or on an HTTP server."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shards import storage
from shards.files import write_bytes
from shards.layer import INDEX, Layer, ShardError, split_of
from shards.manifest_entry import ManifestEntry
from shards.records import Sample
from shards.remote_tars import RemoteTars
from shards.storage import StorageError, without_secrets
from shards.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class FinishedShards:
    """The output of `wsss build-shards`, local or remote: index.json, and a manifest entry and a tar per shard."""

    tars: RemoteTars

    @property
    def taxonomy(self) -> Taxonomy:
        """Raises: ValueError if the index does not list its classes."""
        names = self._index.get("classes")
        if not isinstance(names, list) or not names:
            raise ValueError(f"{self._display_name(INDEX)} lists no classes; build the shards again and upload them")
        return Taxonomy(tuple(names))

    def shards(self, split: str) -> list[str]:
        """The shards of a split, in order. Raises: ValueError if there are none."""
        found = [shard for shard in self._index["shards"] if split_of(shard) == split]
        if not found:
            have = sorted({split_of(shard) for shard in self._index["shards"]})
            raise ValueError(f"{self._display_name(INDEX)} has no shards of split {split!r}; it has {', '.join(have)}")
        return found

    def signature(self, *, masks: bool = True) -> str:
        """A hash of the shards' content, independent of where they are stored."""
        held = {name: self._index[name] for name in ("shards", "sha256", "classes") if name in self._index}
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

    def take(self, shard: str, layer: Layer) -> None:
        """Write a shard's manifest entry into `layer`; its tar is not copied.

        Raises: ShardError if the manifest entry is not available or does not match the index.
        """
        name = f"{shard}.json"
        try:
            data = self._read(name)
            manifest = ManifestEntry.from_bytes(data)
        except StorageError as error:
            raise ShardError(f"{error}; copy it again, or make the shards again with `wsss run`") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(
                f"{self._display_name(name)} is not a manifest entry ({error}); upload it again"
            ) from error
        if manifest.sha256 != self._index["sha256"].get(shard):
            raise ShardError(f"{self._display_name(name)} does not match {INDEX}; upload both again")
        if (listed := self._index["counts"].get(shard)) != manifest.count:
            raise ShardError(
                f"{self._display_name(name)} has {manifest.count} records, but {INDEX} says {listed}; upload both again"
            )
        write_bytes(layer.manifest_path(shard), data)

    def take_index(self, layer: Layer) -> None:
        """Write the index into `layer`. Raises: ValueError if it is not available or not an index of samples."""
        _ = self._index
        write_bytes(layer.path / INDEX, self._read(INDEX))

    @cached_property
    def _index(self) -> dict[str, Any]:
        try:
            index = json.loads(self._read(INDEX))
        except StorageError as error:
            raise ValueError(f"no finished shards can be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"{self._display_name(INDEX)} is not readable: {error}") from None
        forms = {"record": str, "shards": list, "sha256": dict, "counts": dict}
        if not isinstance(index, dict) or not all(isinstance(index.get(name), form) for name, form in forms.items()):
            raise ValueError(f"{self._display_name(INDEX)} is not the index of a layer")
        if index["record"] != Sample.kind:
            raise ValueError(
                f"{self._display_name(INDEX)} is the index of {index['record']} records, but samples are needed"
            )
        return index

    def _read(self, name: str) -> bytes:
        return storage.read(f"{self.tars.address.rstrip('/')}/{name}", retries=self.tars.retries)

    def _display_name(self, name: str) -> str:
        return f"{without_secrets(self.tars.address).rstrip('/')}/{name}"
