"""Work measurements of a run record (images, workers and their seconds), for `wsss plan --measured`."""

from __future__ import annotations

from shards.layer import ShardError
from wsss.contract.batch_parts import VIEWS
from wsss.contract.fit import Fit
from wsss.contract.runtime import RuntimeSettings
from wsss.contract.shard_times import ShardTimes, read_times
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
        **_beside_gpus(times),
        **{f"fewer.{setting}": float(number) for setting, number in _fewer(times).items()},
    }


def _beside_gpus(times: ShardTimes) -> dict[str, float]:
    """How well decoding and encoding overlapped with the network, from shards where they had threads of their own."""
    found = [one for one in times.measured if "takes" in one]
    if not found:
        return {}

    def total(name: str) -> float:
        return sum(one[name] for one in found)

    waited = total("read_wait_seconds") + total("write_wait_seconds")
    return {
        "read_wait_seconds": total("read_wait_seconds"),
        "write_wait_seconds": total("write_wait_seconds"),
        "idle_share": waited / max(total("seconds"), 1e-9),
        "queue_length": total("ready") / max(total("takes"), 1.0),
    }


def _fewer(times: ShardTimes) -> dict[str, int]:
    """Setting -> the smallest number of images processed together, where a GPU's memory was too small for it."""
    found: dict[str, int] = {}
    for one in times.measured:
        for name, number in one.items():
            if name.startswith("fewer."):
                setting = name.removeprefix("fewer.")
                found[setting] = min(int(number), found.get(setting, int(number)))
    return found


def memory_notes(instance: Instance) -> list[str]:
    """A line for each setting that asked for more than a GPU's memory has."""
    lines = []
    for setting, number in _fewer(read_times(instance.path)).items():
        if setting == VIEWS:
            lines.append(
                "a GPU's memory was too small for the largest images together with their mirror images, which were "
                "processed one after the other"
            )
            continue
        name, value = f"{instance.name}.{setting}", getattr(instance.stage, setting)
        lines.append(
            f"a GPU's memory was too small for {value} of the largest images together, and {number} were processed; "
            f"with {name} = {number} nothing is tried in vain"
        )
    return lines


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
