"""Which listed samples form which shard: decided from the listing alone, before any image is read.

A split's cuts are the places where its shards begin, and its length: shard i holds samples cuts[i] .. cuts[i + 1] - 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shards.codec import to_json
from shards.files import write_bytes
from shards.layer import ShardError

CUTS = "cuts.json"
_FORMAT = 1
_OVERHEAD = 2048
"""Bytes of a sample besides its image: two headers, padding, its JSON. Masks are not counted."""

Cuts = tuple[int, ...]


def cuts_by_count(num_samples: int, *, size: int) -> Cuts:
    """`size` samples a shard; the last one holds the rest."""
    return (*range(0, num_samples, size), num_samples)


def cuts_by_bytes(image_bytes_N: np.ndarray, *, target: int) -> Cuts:
    """The fewest shards of about `target` bytes, of equal shares: none is larger by more than the image that it ends
    with, and no small one is left at the end.

    `image_bytes_N`: i64[N], bytes of every sample's image, in the order of the list; 0 where there is no such file.
    """
    sizes_N = image_bytes_N.astype(np.int64) + _OVERHEAD
    ends = np.cumsum(sizes_N)
    total = int(ends[-1]) if len(ends) else 0
    num_shards = max(1, -(-total // target))
    middles = ends - (sizes_N + 1) // 2
    # A sample lies in the share of the bytes that its middle lies in; a share inside one large image holds none.
    shares = np.array([int(middle) * num_shards // total for middle in middles], dtype=np.int64)
    begins = np.flatnonzero(np.diff(shares, prepend=-1))
    return (*begins.tolist(), len(image_bytes_N))


def write_cuts(folder: Path, cuts: Mapping[str, Cuts]) -> None:
    """Keep the cuts of every split beside the shards: what was begun goes on with them, also where files change."""
    write_bytes(folder / CUTS, to_json({"format": _FORMAT, "splits": {split: list(of) for split, of in cuts.items()}}))


def read_cuts(folder: Path, lengths: Mapping[str, int]) -> dict[str, Cuts] | None:
    """The cuts that were kept; None where there are none.

    `lengths`: split -> number of listed samples. Raises `ShardError`, with the file, for cuts of anything else.
    """
    path = folder / CUTS
    try:
        found = json.loads(path.read_bytes())
        cuts = {split: tuple(found["splits"][split]) for split in lengths}
        sound = found["format"] == _FORMAT and all(_fit(cuts[split], lengths[split]) for split in lengths)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise ShardError(f"{path} is not of the listed samples; delete its folder and run its stage again")
    return cuts


def _fit(cuts: Sequence[int], length: int) -> bool:
    ascending = all(type(one) is int for one in cuts) and list(cuts) == sorted(set(cuts))
    return ascending and len(cuts) >= 2 and cuts[0] == 0 and cuts[-1] == length
