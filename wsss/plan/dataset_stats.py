"""A data set on paper: how many images of which size with how many labels, without looking at one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from shards.layer import ShardError
from shards.sources.toy import TOY
from shards.taxonomy import VOC_20, Taxonomy, ilsvrc_det_200
from wsss.contract.settings import settings
from wsss.contract.stage import Instance, Stage
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.recipe_tables import RecipeError, unknown_name
from wsss.plan.costs import Costs, PlanError
from wsss.stages.build_shards import BuildShards

LID_IMAGES = {"train": 456_567, "val": 4_690, "test": 10_000}
"""Track 1 of the LID challenge: ILSVRC DET's training images, and what was released of val and test."""
_ILSVRC = ("lid", "ilsvrc_det")
_CLASS_LISTS: Mapping[str, Callable[[], Taxonomy]] = {
    "toy": lambda: TOY,
    "voc": lambda: VOC_20,
    **dict.fromkeys(_ILSVRC, ilsvrc_det_200),
}
_PIXELS = (375, 500)
"""What a photograph is taken to be: VOC's most frequent size, and near ILSVRC's mean."""


@settings
class PaperShards(BuildShards):
    """build_shards without its data: the classes come from the data set's list, the number of images from elsewhere."""

    @property
    def taxonomy(self) -> Taxonomy:
        if self.source not in _CLASS_LISTS:
            known = ", ".join(_CLASS_LISTS)
            raise ValueError(
                f"source = {self.source!r}: its classes stand in its files, which are not here ({known} do)"
            )
        return _CLASS_LISTS[self.source]().subset(self.class_names)

    def signature(self, *, masks: bool = True) -> str:
        return "on paper"

    def check(self, instance: Instance) -> None:
        """Nothing: there is nothing to look at."""

    def tars(self) -> None:
        return None


@dataclass(frozen=True)
class Paper:
    """The images of every split, and what they are like."""

    images: Mapping[str, int]
    size: tuple[int, int]
    """Height and width in pixels, of every image."""
    labelled_share: float
    """Training images that show a class; the others cost no maps, walks or refinement."""
    labels: float
    """Classes of an image that shows any."""
    told: str
    """Where the numbers of images come from."""
    costs: tuple[str, ...] = ()
    """Names of the figures that the labels come from."""

    @property
    def megapixels(self) -> float:
        """Of one image."""
        return self.size[0] * self.size[1] / 1e6

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the stride-4 grid of one image."""
        return -(-self.size[0] // 4), -(-self.size[1] // 4)

    @property
    def meganodes(self) -> float:
        """Pixels of that grid, in millions."""
        return self.grid[0] * self.grid[1] / 1e6


def recipe_on_paper(path: Path, overrides: list[str]) -> tuple[Recipe, str]:
    """A recipe whose data need not be here, and why they are not used ("" where they are here).

    Raises: `RecipeError` for anything else that is wrong with it.
    """
    try:
        return load_recipe(path, overrides), ""
    except RecipeError as error:
        # What does not come from the data comes again; what does, does not.
        return load_recipe(path, overrides, stand_in=_on_paper), str(error)


def _on_paper(stage: Stage) -> Stage:
    if not isinstance(stage, BuildShards):
        return stage
    return PaperShards(**{field.name: getattr(stage, field.name) for field in fields(stage)})


def paper_of(recipe: Recipe, instance: Instance, *, images: str | None, costs: Costs) -> Paper:
    """What to reckon with for one build_shards instance.

    `images`: what --images says, `N` training images or `SPLIT=N,...`; without it the finished layer's counts, the
    toy data set's own, LID's where the rules are LID's. Raises: `PlanError` where none of these tells.
    """
    stage = instance.stage
    assert isinstance(stage, BuildShards)
    is_lid = stage.source in _ILSVRC or recipe.settings.rules == "lid_track1"
    counts, told = _counts(stage, instance, images, rules=recipe.settings.rules)
    names = ("lid_labelled_share", "lid_labels") if is_lid else ("labels",)
    share, labels = costs[names[0]] if is_lid else 1.0, costs[names[-1]]
    size = (stage.size, stage.size) if stage.source == "toy" and not is_lid else _PIXELS
    return Paper({split: counts.get(split, 0) for split in stage.splits}, size, share, labels, told, names)


def _counts(stage: BuildShards, instance: Instance, images: str | None, *, rules: str) -> tuple[Mapping[str, int], str]:
    known = _finished_counts(instance) or (stage.counts if stage.source == "toy" else {})
    if images is None:
        if rules == "lid_track1" and not _finished_counts(instance):
            return LID_IMAGES, "LID's track 1"
        if known:
            return known, "of build_shards' layer" if _finished_counts(instance) else "as the recipe draws them"
        raise PlanError(
            f"how many images? {instance.name} is not done, and recipe.rules names no challenge; give --images N "
            "(training images), or --images train=N,val=M"
        )
    given = parse_images(images)
    if strange := sorted(set(given) - set(stage.splits)):
        raise PlanError(f"--images {images}: " + unknown_name("split", strange[0], list(stage.splits)))
    others = {split: count for split, count in (known or LID_IMAGES).items() if split != "train"}
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
        found[split or "train"] = int(digits)
    return found
