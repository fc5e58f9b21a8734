"""Assigns listed samples to shards, using the listing alone, before any image is read.

The boundaries of a split are the indices at which its shards begin, followed by its length: shard i holds the samples
boundaries[i] to boundaries[i + 1] - 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shards.codec import to_json
from shards.files import write_bytes
from shards.layer import ShardError

BOUNDARIES = "shard_boundaries.json"
_FORMAT = 1
_OVERHEAD = 2048
"""Bytes of a sample besides its image: two headers, padding, its JSON. Masks are not counted."""

Boundaries = tuple[int, ...]


def boundaries_by_count(num_samples: int, *, size: int) -> Boundaries:
    """`size` samples per shard; the last one holds the rest."""
    return (*range(0, num_samples, size), num_samples)


def boundaries_by_bytes(image_bytes_N: np.ndarray, *, target: int) -> Boundaries:
    """Boundaries of the fewest shards of about `target` bytes each, with equal shares of the bytes.

    A shard exceeds its share by at most its last image, and there is no small shard left over at the end.
    `image_bytes_N`: i64[N], bytes of every sample's image, in the order of the list; 0 if the file does not exist.
    """
    sizes_N = image_bytes_N.astype(np.int64) + _OVERHEAD
    ends = np.cumsum(sizes_N)
    total = int(ends[-1]) if len(ends) else 0
    num_shards = max(1, -(-total // target))
    middles = ends - (sizes_N + 1) // 2
    # A sample belongs to the share that contains its middle byte; a share inside one large image gets no sample.
    shares = np.array([int(middle) * num_shards // total for middle in middles], dtype=np.int64)
    begins = np.flatnonzero(np.diff(shares, prepend=-1))
    return (*begins.tolist(), len(image_bytes_N))


def write_boundaries(folder: Path, boundaries: Mapping[str, Boundaries]) -> None:
    """Store the boundaries of every split next to the shards: a resumed stage uses them even if files changed."""
    write_bytes(
        folder / BOUNDARIES,
        to_json({"format": _FORMAT, "splits": {s: list(of) for s, of in boundaries.items()}}),
    )


def read_boundaries(folder: Path, lengths: Mapping[str, int]) -> dict[str, Boundaries] | None:
    """Read the stored boundaries; None if there are none.

    `lengths`: split -> number of listed samples. Raises `ShardError`, naming the file, if the boundaries do not match.
    """
    path = folder / BOUNDARIES
    try:
        found = json.loads(path.read_bytes())
        boundaries = {split: tuple(found["splits"][split]) for split in lengths}
        sound = found["format"] == _FORMAT and all(_fit(boundaries[split], lengths[split]) for split in lengths)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise ShardError(f"{path} does not match the listed samples; delete its folder and run its stage again")
    return boundaries


def _fit(boundaries: Sequence[int], length: int) -> bool:
    ascending = all(type(one) is int for one in boundaries) and list(boundaries) == sorted(set(boundaries))
    return ascending and len(boundaries) >= 2 and boundaries[0] == 0 and boundaries[-1] == length
