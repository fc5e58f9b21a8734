"""A layer: one column of the data set. A folder of tars, aligned shard by shard with `samples`.

    <layer>/train-000017.tar     records, in the order of the samples
    <layer>/train-000017.json    its manifest entry: what it contains, what is missing and why; written after the tar
    <layer>/index.json           written last: the layer is complete

A shard is finished if its manifest entry exists and its tar has the size given there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from shards.codec import to_json
from shards.files import write_bytes
from shards.folds import Fold
from shards.manifest_entry import ManifestEntry
from shards.records import Missing
from shards.remote_tars import RemoteTars

INDEX = "index.json"
AGAIN = "run its stage again (if it was copied here, copy it again)"
"""What to do about a missing or damaged file of a layer, in messages."""


class ShardError(RuntimeError):
    """A shard on disk is missing or does not match its manifest entry."""


def shard_name(split: str, number: int) -> str:
    """`train`, 17 -> `train-000017`."""
    return f"{split}-{number:06d}"


def split_of(shard: str) -> str:
    """`train-000017` -> `train`."""
    return shard.rpartition("-")[0]


@dataclass(frozen=True)
class Layer:
    """A layer's folder on disk, with the kind of record it holds.

    Manifest entries and index are always in the folder. If the tars are stored elsewhere, they are fetched when read.
    """

    path: Path
    kind: str
    remote: RemoteTars | None = None
    without: Fold | None = None
    """A view of the layer, as a training of cross-fitting sees it: without the training shards of this fold."""

    def tar_path(self, shard: str) -> Path:
        return self.path / f"{shard}.tar"

    def manifest_path(self, shard: str) -> Path:
        return self.path / f"{shard}.json"

    def manifest_entry(self, shard: str) -> ManifestEntry:
        """The manifest entry of a finished shard. Raises `ShardError` if the shard is unfinished or truncated."""
        try:
            manifest = ManifestEntry.from_bytes(self.manifest_path(shard).read_bytes())
        except FileNotFoundError:
            raise ShardError(f"{self.tar_path(shard)} is not finished: it has no manifest entry; {AGAIN}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShardError(f"{self.manifest_path(shard)} is not readable ({error}); {AGAIN}") from error
        self._check_tar(shard, manifest.num_bytes)
        return manifest

    def _check_tar(self, shard: str, expected: int) -> None:
        """Raise `ShardError` unless the tar has this many bytes; one that is stored elsewhere is not looked at."""
        if self.remote is not None:
            return
        try:
            found = self.tar_path(shard).stat().st_size
        except FileNotFoundError:
            raise ShardError(f"{self.tar_path(shard)} does not exist, but its manifest entry does; {AGAIN}") from None
        if found != expected:
            what = "is truncated" if found < expected else "is longer than when it was written"
            raise ShardError(f"{self.tar_path(shard)} {what}: {found} bytes, {expected} expected; {AGAIN}")

    def open_tar(self, shard: str) -> BinaryIO:
        """Open a whole tar for sequential reading. Raises OSError if it is not available."""
        if self.remote is None:
            return self.tar_path(shard).open("rb")
        size = self.tar_size(shard)
        return self.remote.open(shard, num_bytes=size.num_bytes, sha256=size.sha256)

    def read_span(self, shard: str, *, offset: int, length: int) -> bytes:
        """Read a part of a tar; fewer bytes if the tar ends earlier. Raises OSError if it is not available."""
        if self.remote is None:
            with self.tar_path(shard).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        size = self.tar_size(shard)
        return self.remote.read_span(shard, offset=offset, length=length, num_bytes=size.num_bytes, sha256=size.sha256)

    def tar_name(self, shard: str) -> str:
        """Path or address of a tar, for messages."""
        return str(self.tar_path(shard)) if self.remote is None else self.remote.display_name(shard)

    def tar_size(self, shard: str) -> TarSize:
        """Size and hash of the tar, and its number of records, from its manifest entry.

        Read once for as long as the file stays the same: every record of a remote layer needs it, and a command asks
        several times whether a layer is complete, whose manifest entries hold the names of all records.
        """
        path = self.manifest_path(shard)
        seen = path.stat()
        return _tar_size(str(path), seen.st_mtime_ns, seen.st_size, seen.st_ino)

    def is_finished(self, shard: str) -> bool:
        """True if both the shard's tar and its manifest entry exist and agree in size."""
        return self._finished_count(shard) is not None

    def _finished_count(self, shard: str) -> int | None:
        """Number of records of a finished shard; None if it is not finished."""
        try:
            size = self.tar_size(shard)
            self._check_tar(shard, size.num_bytes)
        except (ShardError, FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return size.count

    def shards(self) -> list[str]:
        """The shards of a complete layer, in order. Raises `ShardError` if the layer is not complete."""
        return self._seen(self._index()["shards"])

    def _seen(self, shards: Iterable[str]) -> list[str]:
        return [shard for shard in shards if self.without is None or not self.without.leaves_out(shard)]

    def _index(self) -> dict[str, Any]:
        """The index of a complete layer without `left_out`, which no caller changes. Raises `ShardError` if it is
        missing or damaged."""
        path = self.path / INDEX
        try:
            seen = path.stat()
            return _index_without_reasons(str(path), seen.st_mtime_ns, seen.st_size, seen.st_ino)
        except (FileNotFoundError, NotADirectoryError):
            raise ShardError(
                f"the layer {self.path} is not complete: {INDEX} is missing; wsss run with its recipe finishes it"
            ) from None

    def is_complete(self, expected: list[str]) -> bool:
        """True if the index lists exactly these shards, and each of them is finished and has the index's count."""
        try:
            counts = self.counts_of_shards()
            return list(self._index()["shards"]) == expected and all(
                shard in counts and self._finished_count(shard) == counts[shard] for shard in expected
            )
        except ShardError:
            return False

    def manifest_entries(self, split: str | None = None) -> Iterator[ManifestEntry]:
        """Manifest entries of a complete layer in shard order, of one split or of all."""
        for shard in self.shards():
            if split is None or split_of(shard) == split:
                yield self.manifest_entry(shard)

    def complete(self, shards: list[str], *, classes: tuple[str, ...] | None = None) -> None:
        """Write the index: counts, sizes and hashes of every shard, and the reasons for missing records.

        `classes`: names of the foreground classes, for a layer of samples, so that it can be read without its recipe.
        """
        index: dict[str, Any] = {"record": self.kind, "shards": shards}
        collected: dict[str, dict[str, Any]] = {
            name: {} for name in ("counts", "num_bytes", "sha256", "missing", "left_out")
        }
        made_on: Counter[str] = Counter()
        for shard in shards:
            manifest = self.manifest_entry(shard)  # one at a time: together they hold every key of the data set
            collected["counts"][shard] = manifest.count
            collected["num_bytes"][shard] = manifest.num_bytes
            collected["sha256"][shard] = manifest.sha256
            for name, left_out in (("missing", False), ("left_out", True)):
                if reasons := {e.key: e.reason for e in manifest.missing if e.left_out == left_out}:
                    collected[name][shard] = reasons
            if manifest.made_on:
                made_on[manifest.made_on] += 1
        if not collected["left_out"]:
            del collected["left_out"]
        index |= collected
        if made_on:
            index["made_on"] = dict(made_on)
        if classes is not None:
            index["classes"] = list(classes)
        write_bytes(self.path / INDEX, to_json(index))

    def classes(self) -> tuple[str, ...] | None:
        """Names of the foreground classes of a complete layer; None if its index does not contain them."""
        names = self._index().get("classes")
        return tuple(names) if isinstance(names, list) else None

    def made_on(self) -> dict[str, int]:
        """Hardware that computed a complete layer (`ManifestEntry.made_on`) -> shards; empty if not known."""
        return dict(self._index().get("made_on", {}))

    def counts_of_shards(self) -> dict[str, int]:
        """Number of records in every shard of a complete layer."""
        return dict(self._index()["counts"])

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every tar, from the index of a complete layer."""
        return dict(self._index()["sha256"])

    def counts(self) -> dict[str, int]:
        """Number of records per split of a complete layer, and `missing`: missing records of all splits."""
        index = self._index()
        totals: dict[str, int] = {}
        for shard in self._seen(index["counts"]):
            totals[split_of(shard)] = totals.get(split_of(shard), 0) + index["counts"][shard]
        return totals | {"missing": sum(len(reasons) for reasons in index["missing"].values())}

    def missing_of_splits(self) -> dict[str, int]:
        """Number of missing records of every split of a complete layer that has any."""
        totals: dict[str, int] = {}
        for shard, reasons in self._index()["missing"].items():
            totals[split_of(shard)] = totals.get(split_of(shard), 0) + len(reasons)
        return totals

    def left_out(self) -> dict[str, dict[str, str]]:
        """Samples excluded by settings: split -> key -> reason; splits without any are not in the result."""
        found: dict[str, dict[str, str]] = {}
        if not self._index()["has_left_out"]:
            return found
        for shard, reasons in _read_index(str(self.path / INDEX)).get("left_out", {}).items():
            found.setdefault(split_of(shard), {}).update(reasons)
        return found

    def missing(self) -> Iterator[Missing]:
        """Every missing sample of a complete layer, with the reason, except those excluded by settings."""
        for reasons in self._index()["missing"].values():
            yield from (Missing(key=key, reason=reason) for key, reason in reasons.items())


@lru_cache(maxsize=32)
def _index_without_reasons(path: str, _modified: int, _size: int, _inode: int) -> dict[str, Any]:
    """An index, read once for as long as the file stays the same. Why records were left out is not kept: in LID these
    are 130,000 reasons, 11 MB of JSON that every look at the index would read again."""
    index = _read_index(path)
    return index | {"has_left_out": bool(index.pop("left_out", None))}


def _read_index(path: str) -> dict[str, Any]:
    try:
        index = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ShardError(f"{path} is not readable ({error}); {AGAIN}") from None
    forms = {"record": str, "shards": list, "counts": dict, "sha256": dict, "missing": dict}
    if not isinstance(index, dict) or not all(isinstance(index.get(name), form) for name, form in forms.items()):
        raise ShardError(f"{path} is not the index of a layer; {AGAIN}")
    return index


@dataclass(frozen=True)
class TarSize:
    """Bytes, hash and number of records of a tar."""

    num_bytes: int
    sha256: str
    count: int


@lru_cache(maxsize=65_536)
def _tar_size(path: str, _modified: int, _size: int, _inode: int) -> TarSize:
    manifest = ManifestEntry.from_bytes(Path(path).read_bytes())
    return TarSize(manifest.num_bytes, manifest.sha256, manifest.count)
