"""Whether the disk holds the layer that a stage is about to write."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from statistics import fmean

from shards.layer import split_of
from wsss.contract.cost import DatasetStats
from wsss.contract.stage import DataStage, Instance, Map
from wsss.pipeline.recipe import Recipe, RecipeError
from wsss.plan.costs import load_costs
from wsss.plan.layers import record_bytes

_SAMPLED_SHARDS = 4
"""Shards per split whose manifest entries are read, evenly spread."""


def check_room(recipe: Recipe, instance: Instance) -> str:
    """A line if the layer of a stage may not fit on the disk of `runtime.runs`; empty if it fits.

    The estimate may be wrong by a factor of two: a stage is refused if not even half of it is free. Raises:
    `RecipeError` with the bytes that the layer needs and those that are free. `runtime.disk_check = false` switches
    both off.
    """
    if not recipe.runtime.disk_check or not isinstance(instance.stage, Map):
        return ""
    needed, free = bytes_to_write(instance), shutil.disk_usage(recipe.runtime.runs).free
    if needed <= free:
        return ""
    line = (
        f"{instance.name}: its layer needs about {_in_words(needed)} on the disk of runtime.runs = "
        f"{str(recipe.runtime.runs)!r}, where {_in_words(free)} are free"
    )
    if needed <= 2 * free:
        return f"{line}; if it is full, make room and give the same command again"
    raise RecipeError(
        f"{line}; make room, or name a folder on a larger disk (what is finished may be moved there). "
        "runtime.disk_check = false starts it all the same"
    )


def bytes_to_write(instance: Instance) -> float:
    """Bytes of the shards that a `Map` instance has not finished, estimated from a few shards of its samples.

    Of samples the stage itself knows more. Images whose classes are unknown count as others do.
    """
    stage = instance.stage
    assert isinstance(stage, Map)
    if isinstance(stage, DataStage):
        return stage.bytes_to_write(instance)
    shards = [shard for shard in stage.shards(instance) if not instance.layer.is_finished(shard)]
    counts = instance.samples.layer.counts_of_shards()
    total, costs = 0.0, load_costs()
    for split in stage.splits:
        of_split = [shard for shard in shards if split_of(shard) == split]
        if of_split:
            stats = _stats(instance, of_split)
            total += sum(counts[shard] for shard in of_split) * record_bytes(instance, stats, costs)
    return total


def _stats(instance: Instance, shards: Sequence[str]) -> DatasetStats:
    """Sizes and labels of the samples of some shards of one split, from a few manifest entries."""
    sizes: list[tuple[int, int]] = []
    labels: list[int] = []
    for shard in shards[:: -(-len(shards) // _SAMPLED_SHARDS)]:
        entries = instance.samples.layer.manifest_entry(shard).entries
        sizes += [tuple(size) for size in entries.metadata("size") if size]
        labels += [len(classes) for classes in entries.metadata("classes") if classes]
    height, width = (fmean(side) for side in zip(*sizes, strict=True)) if sizes else (0.0, 0.0)
    return DatasetStats(
        images={},
        size=(round(height), round(width)),
        labelled_share=len(labels) / max(len(sizes), 1),
        labels=fmean(labels) if labels else 0.0,
        masked_splits=frozenset(),
        shard_images=1,
    )


def _in_words(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"
