"""The number of images of an instance, and the cost of reading and writing its records."""

from __future__ import annotations

from collections.abc import Mapping

from wsss.contract.cost import DatasetStats
from wsss.contract.fit import Fit
from wsss.contract.stage import Instance, Map
from wsss.plan.costs import Costs

TRAIN = "train"
_FORM = {"sample": "sample", "cam": "maps", "score": "maps"}
"""Kind of record -> storage format, as in the figures `read_FORMAT` and `write_FORMAT`; other kinds are label maps."""


def images_of(instance: Instance, stats: DatasetStats) -> dict[str, int]:
    """Split -> images of the layer that an instance writes; images excluded because of their content are counted.

    For an instance that writes no layer: images that are in all layers it reads.
    """
    stage, layers = instance.stage, layers_read(instance)
    most = stage.max_shards if isinstance(stage, Map) else None
    splits = stage.splits if isinstance(stage, Map) else tuple(stats.images)
    found = {}
    for split in splits:
        read = [images_of(up, stats).get(split, 0) for up in layers.values()]
        count = min(read) if read else stats.images.get(split, 0)
        found[split] = count if most is None else min(count, most * stats.shard_images)
    return found


def stats_of(instance: Instance, stats: DatasetStats) -> DatasetStats:
    """The statistics of the images that an instance makes records of or trains on. `stats`: those of all samples."""
    for upstream in layers_read(instance).values():
        stats = stats_of(upstream, stats)
    return instance.stage.planned_stats(instance, stats) if isinstance(instance.stage, Map) else stats


def train_images(instance: Instance, stats: DatasetStats, *, max_shards: int | None = None) -> int:
    """Number of training images that are in all layers read by a training."""
    layers = layers_read(instance).values() or [instance.samples]
    count = min(images_of(up, stats).get(TRAIN, 0) for up in layers)
    count = count if max_shards is None else min(count, max_shards * stats.shard_images)
    stage = instance.stage
    learned = (stage.folds - 1) / stage.folds if isinstance(stage, Fit) and stage.folds > 1 else 1.0
    return round(count * learned)


def layers_read(instance: Instance) -> dict[str, Instance]:
    """Slot -> instance, for the inputs that are layers."""
    return {slot: up for slot, up in instance.inputs.items() if isinstance(up.stage, Map)}


def num_shards(images: Mapping[str, int], stats: DatasetStats) -> int:
    """Number of shards for the given number of images of each split."""
    return sum(-(-count // stats.shard_images) for count in images.values())


def record_bytes(instance: Instance, stats: DatasetStats, costs: Costs) -> float:
    """Bytes of one record of an instance's layer, on average over training images."""
    stage = instance.stage
    assert isinstance(stage, Map), f"{instance.name} writes no records"
    kind, copies = stage.record_kind, stage.arrays_per_record()
    image, mask = costs["image_bytes"] * stats.megapixels, costs["mask_bytes"] * stats.megapixels
    nodes = stats.meganodes * 1e6
    maps = costs["map_bytes"] * nodes * stats.labels * stats.labelled_share
    own = {
        "sample": image,
        "cam": maps * copies,
        "score": maps * copies,
        "seed": mask * copies + costs["map_bytes"] * 1e6 * _kept_scores(instance, stats),
        "pseudo_label": mask * copies + nodes,
        "prediction": mask * copies + nodes,
        "instance_label": mask * copies,
    }
    return own[kind] + costs["record_bytes"]


def reading(instance: Instance, stats: DatasetStats) -> dict[str, float]:
    """Units of reading one record of every layer that an instance reads."""
    units: dict[str, float] = {}
    for up in layers_read(instance).values():
        name, number = _units("read", up, stats)
        units[name] = units.get(name, 0.0) + number
        if kept := _kept_scores(up, stats):
            units["read_maps"] = units.get("read_maps", 0.0) + kept
    return units


def writing(instance: Instance, stats: DatasetStats) -> dict[str, float]:
    """Units of writing one record."""
    stage = instance.stage
    assert isinstance(stage, Map), f"{instance.name} writes no records"
    name, number = _units("write", instance, stats)
    units = {name: number * stage.arrays_per_record()}
    if kept := _kept_scores(instance, stats):
        units["write_maps"] = kept
    return units


def _kept_scores(instance: Instance, stats: DatasetStats) -> float:
    """Values, in millions, of the scores that a record of seeds has besides its label, on average over images."""
    stage = instance.stage
    if not isinstance(stage, Map) or stage.record_kind != "seed" or "scores" not in stage.optional_fields(instance):
        return 0.0
    return 2 * (stats.labels + 1) * stats.megapixels * stats.labelled_share


def _units(verb: str, instance: Instance, stats: DatasetStats) -> tuple[str, float]:
    assert isinstance(instance.stage, Map)
    form = _FORM.get(instance.stage.record_kind, "mask")
    number = {"sample": 1.0, "maps": stats.meganodes * stats.classes_per_image, "mask": stats.megapixels}
    return f"{verb}_{form}", number[form]
