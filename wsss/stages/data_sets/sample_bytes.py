"""Bytes that the samples of a data set take in shards, from a few of its images."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from shards.codec import encode
from shards.records import BadSampleError
from shards.sources.source import Listed, Source

_SAMPLED = 32
_TAR_BLOCK = 512


def bytes_of_split(source: Source, listing: Sequence[Listed]) -> float:
    """Bytes of all samples of a split, members and headers in the tars, from 32 images evenly spread over it."""
    sizes = []
    for listed in listing[:: max(1, -(-len(listing) // _SAMPLED))]:
        try:
            members = encode(source.read(listed))
        except BadSampleError:
            continue
        sizes.append(sum(_TAR_BLOCK * (1 + -(-len(member) // _TAR_BLOCK)) for member in members.values()))
    return len(listing) * (fmean(sizes) if sizes else 0.0)
