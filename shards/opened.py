"""Opens a finished layer for reading: in a folder, in a bucket, or in a folder with tars stored elsewhere."""

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
    """A complete layer; the manifest entries of a remote layer are fetched on first use."""

    display_name: str
    """Path or address for messages, without secrets."""
    layer: Layer
    source: FinishedShards | None = None
    """Where manifest entries are fetched from, if they are not in the layer's folder."""

    @property
    def name(self) -> str:
        """The last part of its path or address, for file names."""
        return Path(urlsplit(self.display_name).path).name or "layer"

    def manifest_entry(self, shard: str) -> ManifestEntry:
        """The manifest entry of a shard. Raises `ShardError` if it is not available or does not match the index."""
        if self.source is not None and not self.layer.manifest_path(shard).exists():
            self.source.take(shard, self.layer)
        return self.layer.manifest_entry(shard)

    def manifest_entries(self) -> Iterator[ManifestEntry]:
        """All manifest entries, in the index's order."""
        return (self.manifest_entry(shard) for shard in self.layer.shards())


@contextmanager
def opened(place: str, *, tars: RemoteTars | None = None) -> Iterator[OpenedLayer]:
    """Open the complete layer in a folder or, for samples, at an s3:// or http(s):// address.

    `tars`: where the tars of a folder are stored, if not in it. Raises `ShardError` if there is no complete layer.
    """
    if not is_remote(place):
        yield OpenedLayer(display_name=place, layer=Layer(Path(place), _kind(Path(place)), tars))
        return
    source = FinishedShards(tars=RemoteTars(address=place))
    with tempfile.TemporaryDirectory(prefix="wsss-") as folder:
        layer = Layer(Path(folder), Sample.kind, source.tars)
        try:
            source.take_index(layer)
        except ValueError as error:
            raise ShardError(str(error)) from None
        yield OpenedLayer(display_name=without_secrets(place), layer=layer, source=source)


def _kind(folder: Path) -> str:
    try:
        kind = json.loads((folder / INDEX).read_bytes())["record"]
    except (OSError, ValueError, TypeError, KeyError):
        kind = None
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ShardError(f"{folder} {what}; give the folder of a finished layer, such as runs/store/build_shards-…")
    if not isinstance(kind, str):
        raise ShardError(
            f"{folder} holds no complete layer ({INDEX} is missing or damaged); give the folder of a finished layer"
        )
    return kind
