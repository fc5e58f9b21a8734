"""Tars of a layer in a bucket or on an HTTP server: fetched whole into a cache, or read in parts."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from shards import storage
from shards.shard_cache import ShardCache
from shards.storage import Retries, without_secrets


@dataclass(frozen=True, kw_only=True)
class RemoteTars:
    """`address`/SHARD.tar, read through `cache` if it is given and has room."""

    address: str
    cache: ShardCache | None = None
    retries: Retries = storage.RETRIES

    def open(self, shard: str, *, num_bytes: int, sha256: str) -> BinaryIO:
        """Open a whole tar. Raises StorageError if it is not available."""
        file = self._cached(shard, num_bytes=num_bytes, sha256=sha256)
        if file is not None:
            return file
        return io.BytesIO(storage.read(self._tar(shard), length=num_bytes, retries=self.retries))

    def read_span(self, shard: str, *, offset: int, length: int, num_bytes: int, sha256: str) -> bytes:
        """Read a part of a tar: from the cached file, or by a range request if the cache has no room."""
        file = self._cached(shard, num_bytes=num_bytes, sha256=sha256)
        if file is None:
            return storage.read(self._tar(shard), offset=offset, length=length, retries=self.retries)
        with file:
            file.seek(offset)
            return file.read(length)

    def display_name(self, shard: str) -> str:
        """The address of a tar for messages, without secrets."""
        return without_secrets(self._tar(shard))

    def _cached(self, shard: str, *, num_bytes: int, sha256: str) -> BinaryIO | None:
        if self.cache is None:
            return None
        return self.cache.open(self._tar(shard), num_bytes=num_bytes, sha256=sha256)

    def _tar(self, shard: str) -> str:
        return f"{self.address.rstrip('/')}/{shard}.tar"
