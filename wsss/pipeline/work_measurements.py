"""Work measurements of a run record (images, workers and their seconds), for `wsss plan --measured`."""

from __future__ import annotations

from shards.layer import ShardError
from wsss.contract.fit import Fit
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.shard_times import read_times
from wsss.contract.stage import Instance, Map


def work_of(instance: Instance, settings: RuntimeSettings, *, driver_seconds: float) -> dict[str, float]:
    """The field `work` of a run record, once all workers are done. The speed of a training is in its history.

    Shards that were reused, or finished before times were recorded, count neither as images nor as seconds.
    """
    stage = instance.stage
    found = {"threads": float(settings.threads), "driver_seconds": driver_seconds}
    if isinstance(stage, Fit):
        return found | {"workers": float(stage.world_size), "gpus": float(settings.resources_of(instance).rank_gpus)}
    times = read_times(instance.path)
    images = {shard: _images(instance, shard) for shard in times.seconds}
    later = times.seconds.keys() - times.first
    return found | {
        "workers": float(times.workers),
        "gpus": settings.resources_of(instance).actor_gpus,
        "images": float(sum(images.values())),
        "seconds": sum(times.seconds.values()),
        "later_images": float(sum(images[shard] for shard in later)),
        "later_seconds": sum(times.seconds[shard] for shard in sorted(later)),
    }


def _images(instance: Instance, shard: str) -> int:
    """Number of images of a processed shard, including those without a record; the minimum over all layers read."""
    layers = [instance.layer] if isinstance(instance.stage, Map) else []
    layers += [up.layer for up in instance.inputs.values() if isinstance(up.stage, Map) and not layers]
    counts = []
    for layer in layers:
        try:
            entry = layer.manifest_entry(shard)
        except ShardError:  # a shard that the other layers do not have
            continue
        counts.append(entry.count + len(entry.missing))
    return min(counts, default=0)
