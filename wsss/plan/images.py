"""How many images an instance works on, and how many bytes their records take."""

from __future__ import annotations

from typing import Any, cast

from wsss.contract.stage import Instance, Map
from wsss.plan.costs import Costs
from wsss.plan.dataset_stats import Paper
from wsss.stages.build_shards import BuildShards

TRAIN = "train"


def images_of(instance: Instance, paper: Paper) -> dict[str, int]:
    """Split -> images of the layer that a `Map` instance writes; what settings leave out by content counts as kept."""
    stage = cast(Map, instance.stage)
    most = None if stage.max_shards is None else stage.max_shards * shard_size(instance)
    found = {}
    for split in stage.splits:
        read = [images_of(up, paper).get(split, 0) for up in layers_read(instance).values()]
        count = min(read) if read else paper.images.get(split, 0)
        found[split] = count if most is None else min(count, most)
    return found


def train_images(instance: Instance, paper: Paper) -> int:
    """Training images that all layers of a training have."""
    count = min(images_of(up, paper).get(TRAIN, 0) for up in layers_read(instance).values())
    most = getattr(instance.stage, "max_shards", None)
    return count if most is None else min(count, most * shard_size(instance))


def layers_read(instance: Instance) -> dict[str, Instance]:
    """Slot -> instance, of those inputs that are layers."""
    return {slot: up for slot, up in instance.inputs.items() if isinstance(up.stage, Map)}


def shard_size(instance: Instance) -> int:
    """Images of a shard."""
    return cast(BuildShards, instance.samples.stage).shard_size


def num_shards(instance: Instance, images: dict[str, int]) -> int:
    """Shards that hold so many images of every split."""
    return sum(-(-count // shard_size(instance)) for count in images.values())


def record_bytes(instance: Instance, paper: Paper, costs: Costs) -> float:
    """Bytes of one record of an instance's layer, on average over training images."""
    kind, stage = cast(Map, instance.stage).record_kind, cast(Any, instance.stage)
    image, mask = costs["image_bytes"] * paper.megapixels, costs["mask_bytes"] * paper.megapixels
    nodes = paper.meganodes * 1e6
    maps = costs["map_bytes"] * nodes * paper.labels * paper.labelled_share
    own = {
        "sample": image,
        "cam": maps * (2 if getattr(stage, "method", "") == "stochastic" else 1),
        "score": maps,
        "seed": mask,
        "pseudo_label": mask + nodes,
        "prediction": mask * (1 + len(getattr(stage, "ablation", ()))) + nodes,
        "instance_label": mask,
    }
    return own[kind] + costs["record_bytes"]


def has_masks(instance: Instance, split: str) -> bool:
    """Whether images of a split come with masks, which is where an evaluation has something to do."""
    data = cast(BuildShards, instance.samples.stage)
    if data.source in ("lid", "ilsvrc_det") and split != "val":
        return False
    return split in data.masked_splits
