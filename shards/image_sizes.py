"""The sizes of a layer's images, read from its manifest entries; no tar is opened."""

from __future__ import annotations

from collections.abc import Collection

from shards.layer import Layer, ShardError, split_of

_MOST_SHARDS = 24
"""Manifest entries read per split: those of half a million images would take seconds."""


def longer_sides(layer: Layer, *, splits: Collection[str]) -> list[int]:
    """The longer side in pixels of the samples of some splits, ascending; of evenly spread shards if there are many.

    Empty if the layer is not complete, has none of these splits, or was written before sizes were listed.
    """
    try:
        shards = layer.shards()
        sides: list[int] = []
        for split in splits:
            of_split = [shard for shard in shards if split_of(shard) == split]
            step = max(1, -(-len(of_split) // _MOST_SHARDS))
            for shard in of_split[::step]:
                sides += [max(size) for size in layer.manifest_entry(shard).entries.metadata("size") if size]
    except ShardError:
        return []
    return sorted(sides)
