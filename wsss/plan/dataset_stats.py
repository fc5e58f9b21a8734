"""What is planned for of a data set: how many images of which size with how many labels, without a look at any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shards.layer import ShardError
from wsss.contract.cost import DatasetStats, ExpectedData
from wsss.contract.stage import DataStage, Instance, Stage
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.recipe_tables import RecipeError, unknown_name
from wsss.plan.costs import Costs, PlanError
from wsss.plan.layers import TRAIN

LID_RULES = "lid_track1"
LID_IMAGES = {"train": 456_567, "val": 4_690, "test": 10_000}
"""Track 1 of the LID challenge: ILSVRC DET's training images, and what was released of val and test."""
_LID_DATA = ExpectedData(labelled_share="lid_labelled_share", labels="lid_labels")
_PIXELS = (375, 500)
"""Size of a photograph where settings do not say: VOC's most frequent one, and near ILSVRC's mean."""


@dataclass(frozen=True, kw_only=True)
class PlannedData:
    """The images of one data set, and where the numbers come from."""

    stats: DatasetStats
    origin: str
    """Where the numbers of images come from, in words."""
    figures: tuple[str, ...]
    """Names of the figures that the labels come from."""


def dry_recipe(path: Path, overrides: list[str]) -> tuple[Recipe, str]:
    """A recipe whose data need not be here, and why they are not used ("" where they are here).

    Raises: `RecipeError` for anything else that is wrong with it.
    """
    try:
        return load_recipe(path, overrides), ""
    except RecipeError as error:
        # What does not come from the data comes again; what does, does not.
        return load_recipe(path, overrides, stand_in=_without_data), str(error)


def _without_data(stage: Stage) -> Stage:
    return stage.without_data() if isinstance(stage, DataStage) else stage


def planned_data(recipe: Recipe, instance: Instance, *, images: str | None, costs: Costs) -> PlannedData:
    """What to plan for the samples that one instance makes.

    `images`: what --images says, `N` training images or `SPLIT=N,...`; without it the finished layer's counts, those
    that settings give, LID's where the rules are LID's. Raises: `PlanError` where none of these tells.
    """
    stage = instance.stage
    assert isinstance(stage, DataStage)
    own, of_lid = stage.expected_data(), recipe.settings.rules == LID_RULES
    counts, origin = _counts(stage, instance, own, images, of_lid=of_lid)
    labels = _LID_DATA if of_lid else own
    size = own.size if own.size is not None and not of_lid else _PIXELS
    stats = DatasetStats(
        images={split: counts.get(split, 0) for split in stage.splits},
        size=size,
        labelled_share=costs[labels.labelled_share] if labels.labelled_share else 1.0,
        labels=costs[labels.labels],
        masked_splits=own.masked_splits,
        shard_images=own.shard_images or _cut_by_bytes(own, size, costs),
    )
    figures = tuple(name for name in (labels.labelled_share, labels.labels) if name)
    return PlannedData(stats=stats, origin=origin, figures=figures)


def _cut_by_bytes(own: ExpectedData, size: tuple[int, int], costs: Costs) -> int:
    """Images of a shard that is cut by the bytes of its image files."""
    return max(1, math.floor(own.shard_bytes / (costs["image_bytes"] * size[0] * size[1] / 1e6)))


def _counts(
    stage: DataStage, instance: Instance, own: ExpectedData, images: str | None, *, of_lid: bool
) -> tuple[Mapping[str, int], str]:
    finished = _finished_counts(instance)
    known = finished or own.images
    if images is None:
        if of_lid and not finished:
            return LID_IMAGES, "LID's track 1"
        if known:
            return known, f"of {instance.name}'s layer" if finished else "as the recipe's settings say"
        raise PlanError(
            f"how many images? {instance.name} is not done, and recipe.rules names no challenge; give --images N "
            f"(training images), or --images {TRAIN}=N,val=M"
        )
    given = parse_images(images)
    if strange := sorted(set(given) - set(stage.splits)):
        raise PlanError(f"--images {images}: " + unknown_name("split", strange[0], list(stage.splits)))
    others = {split: count for split, count in (known or LID_IMAGES).items() if split != TRAIN}
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
        found[split or TRAIN] = int(digits)
    return found
