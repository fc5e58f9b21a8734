"""How many shards of a split an instance gets, as far as settings say it before anything is run."""

from __future__ import annotations

from math import inf

from wsss.contract.stage import Instance, Map


def most_shards(instance: Instance) -> tuple[float, str]:
    """The most shards of a split that the instance has, and the instance whose `max_shards` says so; (inf, "") if none
    does."""
    stage = instance.stage
    own = getattr(stage, "max_shards", None)
    limits = [(float(own), instance.name)] if own is not None else []
    if isinstance(stage, Map) and instance.inputs:
        limits.append(most_shards(instance.inputs.get(stage.aligned_with, instance.samples)))
    return min(limits, key=lambda limit: limit[0], default=(inf, ""))


def check_shards_of_inputs(instance: Instance) -> None:
    """Raise ValueError if a `Map` reads a layer that has fewer shards than it makes."""
    if not isinstance(instance.stage, Map):
        return
    own, _ = most_shards(instance)
    for slot, upstream in instance.inputs.items():
        number, limited_by = most_shards(upstream) if isinstance(upstream.stage, Map) else (inf, "")
        if number < own:
            makes = "all shards" if own == inf else f"{own:.0f} shards of each split"
            raise ValueError(
                f"{instance.name} makes {makes}, but its input {slot}, {upstream.name}, has {number:.0f} "
                f"({limited_by}.max_shards = {number:.0f}); remove this setting, or set {instance.name}.max_shards to "
                "its value"
            )
