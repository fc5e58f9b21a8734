"""A finished layer to look into, wherever it lies: a folder, a bucket, or a folder whose tars lie elsewhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shards.layer import INDEX, Layer, ShardError
from shards.manifest_entry import ManifestEntry
from shards.records import Sample
from shards.remote_tars import RemoteTars
from shards.sources.finished import FinishedShards
from shards.storage import is_remote, without_secrets


@dataclass(frozen=True, kw_only=True)
class OpenedLayer:
    """A complete layer; rows of one behind an address are fetched when they are asked for."""

    told: str
    """What it is called in messages: its place, without secrets."""
    layer: Layer
    source: FinishedShards | None = None
    """Where the rows come from, if not from the layer's folder."""

    @property
    def name(self) -> str:
        """The last part of its place, for names of files."""
        return Path(urlsplit(self.told).path).name or "layer"

    def manifest_entry(self, shard: str) -> ManifestEntry:
        """The row of a shard. Raises `ShardError` where it cannot be had or is not what the index says."""
        if self.source is not None and not self.layer.manifest_path(shard).exists():
            self.source.take(shard, self.layer)
        return self.layer.manifest_entry(shard)

    def manifest_entries(self) -> Iterator[ManifestEntry]:
        """All rows, in the index's order."""
        return (self.manifest_entry(shard) for shard in self.layer.shards())


@contextmanager
def opened(place: str, *, tars: RemoteTars | None = None) -> Iterator[OpenedLayer]:
    """The complete layer in a folder or, of samples, at an s3:// or http(s):// address.

    `tars`: where the tars of a folder lie, if not in it. Raises `ShardError` where there is no complete layer.
    """
    if not is_remote(place):
        yield OpenedLayer(told=place, layer=Layer(Path(place), _kind(Path(place)), tars))
        return
    source = FinishedShards(tars=RemoteTars(address=place))
    with tempfile.TemporaryDirectory(prefix="wsss-") as folder:
        layer = Layer(Path(folder), Sample.kind, source.tars)
        try:
            source.take_index(layer)
        except ValueError as error:
            raise ShardError(str(error)) from None
        yield OpenedLayer(told=without_secrets(place), layer=layer, source=source)


def _kind(folder: Path) -> str:
    try:
        kind = json.loads((folder / INDEX).read_bytes())["record"]
    except (OSError, ValueError, TypeError, KeyError):
        kind = None
    if not isinstance(kind, str):
        raise ShardError(
            f"{folder} holds no complete layer ({INDEX} is missing or damaged); name the folder of a finished layer"
        )
    return kind
