"""Data set statistics of a plan (number and size of images, labels per image), without reading any image."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shards.layer import ShardError
from wsss.contract.cost import DatasetStats, ExpectedData
from wsss.contract.stage import DataStage, Instance
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.recipe_tables import unknown_name
from wsss.plan.costs import Costs, PlanError
from wsss.plan.layers import TRAIN

LID_RULES = "lid_track1"
LID_IMAGES = {"train": 456_567, "val": 4_690, "test": 10_000}
"""Track 1 of the LID challenge: the training images of ILSVRC DET, and the released images of val and test."""
_LID_DATA = ExpectedData(labelled_share="lid_labelled_share", labels="lid_labels")
_PIXELS = (375, 500)
"""Image size if settings do not give one: the most frequent size in VOC, and close to the mean of ILSVRC."""


@dataclass(frozen=True, kw_only=True)
class PlannedData:
    """The statistics of one data set, and their origin."""

    stats: DatasetStats
    origin: str
    """Origin of the numbers of images, as text."""
    size_assumed: bool
    """Whether the size of the images is `_PIXELS`, for lack of a setting."""
    figures: tuple[str, ...]
    """Names of the cost figures that the label statistics are taken from."""


def planned_data(recipe: Recipe, instance: Instance, *, images: str | None, costs: Costs) -> PlannedData:
    """The planned statistics of the samples that one instance makes.

    `images`: the value of --images, `N` training images or `SPLIT=N,...`. Without it, the counts of the finished layer,
    those in the settings, or those of LID if recipe.rules is LID's. Raises: `PlanError` if none of these is known.
    """
    stage = instance.stage
    assert isinstance(stage, DataStage)
    own, of_lid = stage.expected_data(), recipe.settings.rules == LID_RULES
    splits = {split for one in recipe.instances if isinstance(one.stage, DataStage) for split in one.stage.splits}
    counts, origin = _counts(stage, instance, own, images, of_lid=of_lid, splits=splits)
    labels = _LID_DATA if of_lid else own
    assumed = own.size is None or of_lid
    size = _PIXELS if assumed or own.size is None else own.size
    stats = DatasetStats(
        images={split: counts.get(split, 0) for split in stage.splits},
        size=size,
        labelled_share=costs[labels.labelled_share] if labels.labelled_share else 1.0,
        labels=costs[labels.labels],
        masked_splits=own.masked_splits,
        shard_images=own.shard_images or _cut_by_bytes(own, size, costs),
    )
    figures = tuple(name for name in (labels.labelled_share, labels.labels) if name)
    return PlannedData(stats=stats, origin=origin, size_assumed=assumed, figures=figures)


def _cut_by_bytes(own: ExpectedData, size: tuple[int, int], costs: Costs) -> int:
    """Images per shard if shards are limited by the bytes of their image files."""
    return max(1, math.floor(own.shard_bytes / (costs["image_bytes"] * size[0] * size[1] / 1e6)))


def _counts(
    stage: DataStage,
    instance: Instance,
    own: ExpectedData,
    images: str | None,
    *,
    of_lid: bool,
    splits: Collection[str],
) -> tuple[Mapping[str, int], str]:
    """Split -> images, and where that is from. `splits`: those of all samples of the recipe; --images may name any."""
    finished = _finished_counts(instance)
    known = finished or own.images
    if images is None:
        if of_lid and not finished:
            return LID_IMAGES, "LID's track 1"
        if known:
            return known, f"of {instance.name}'s layer" if finished else "as the recipe's settings say"
        raise PlanError(
            f"how many images? {instance.name} is not done, and recipe.rules names no challenge; give --images "
            + ",".join(f"{split}=N" for split in stage.splits)
        )
    given = parse_images(images)
    if strange := sorted(set(given) - set(splits)):
        raise PlanError(f"--images {images}: " + unknown_name("split", strange[0], sorted(splits)))
    assumed = LID_IMAGES if of_lid and not known else known
    others = {split: count for split, count in assumed.items() if split != TRAIN}
    if lacking := [split for split in stage.splits if split not in {**others, **given}]:
        raise PlanError(
            f"--images {images}: the number of images of {', '.join(lacking)} is not known; give --images "
            + ",".join(f"{split}={given.get(split) or others.get(split) or 'N'}" for split in stage.splits)
        )
    whose = "the recipe's" if known else "LID's"
    filled = [split for split in stage.splits if split not in given and split in others]
    return others | given, "--images" + (f"; {', '.join(filled)}: {whose}" if filled else "")


def _finished_counts(instance: Instance) -> dict[str, int]:
    try:
        return {split: count for split, count in instance.layer.counts().items() if split != "missing"}
    except ShardError:
        return {}


def parse_images(text: str) -> dict[str, int]:
    """`456567` or `train=456567,val=4690` -> split -> number. Raises: `PlanError` for anything else."""
    found: dict[str, int] = {}
    for part in text.split(","):
        split, equals, number = part.strip().rpartition("=")
        digits = number.replace("_", "")
        if not digits.isdigit() or int(digits) < 1 or (equals and not split):
            raise PlanError(f"--images {text}: write a number of training images, or SPLIT=NUMBER,...; each at least 1")
        if (name := split or TRAIN) in found:
            raise PlanError(f"--images {text}: {name} is given twice; give it once")
        found[name] = int(digits)
    return found
