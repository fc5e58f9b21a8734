"""Background thresholds that need no masks, beside those that were chosen with them, for score maps that are done.

python -m tuning.label_free RECIPE EVALUATE [--split val] [--set NAME=VALUE]...

A threshold chosen on masks uses what weak supervision does not have. Otsu's threshold and that of a mixture of two
normal distributions use only the scores' own distribution: over all images, of every class, or of every image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.label_type import BYTE, label_type
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe, RecipeError, load_recipe
from wsss.pipeline.recipe_files import RECIPES, find_file
from wsss.report.printing import print_table
from wsss.report.tables import Cell, Column, Table, percent, table_of
from wsss.stages.evaluate import Evaluate
from wsss.stages.evaluation.counts import SCORED
from wsss.stages.make_pseudo_labels import MakePseudoLabels

SMALLEST = 1e-7
"""A threshold of 0, under which every pixel is foreground, as a setting, which must be above 0."""

if TYPE_CHECKING:
    from wsss.stages.evaluation.label_free import ThresholdScore


def measure(instance: Instance, split: str) -> list[ThresholdScore]:
    """The scores of an `evaluate` of score maps, whose maps are counted again. Raises `RecipeError` if it is none."""
    from wsss.stages.evaluation.label_free import counted, threshold_scores

    if not isinstance(instance.stage, Evaluate) or instance.inputs["records"].layer.kind not in SCORED:
        raise RecipeError(f"{instance.name} is not an evaluate of score maps; name one that reads scores or maps")
    if instance.stage.rule != "threshold":
        raise RecipeError(
            f"{instance.name}.rule = {instance.stage.rule!r} counts by theta, not by a threshold of scores"
        )
    if split not in instance.stage.splits:
        raise RecipeError(f"--split {split}: {instance.name}.splits measures {', '.join(instance.stage.splits)}")
    for needed in instance.inputs.values():
        if not needed.is_done():
            raise RecipeError(f"{needed.name} is not done yet; run the recipe up to it first")
    if label_type(len(instance.taxonomy)) != BYTE:
        raise RecipeError(
            f"{instance.name} counts {len(instance.taxonomy)} classes; thresholds without masks are measured for at "
            f"most {BYTE.ignore - 1}"
        )
    try:
        return threshold_scores(counted(instance, split), split)
    except ValueError as error:
        raise RecipeError(
            f"{instance.name} on {split}: {error}; both halves of its images need masks (see image_list and max_shards)"
        ) from None


def setting_lines(scores: Sequence[ThresholdScore], recipe: Recipe, instance: Instance) -> Iterator[str]:
    """`class_thresholds` for the recipe's file, of every way that gives classes their own, for every
    make_pseudo_labels that reads these maps; then the classes that have none."""
    maps, names = instance.inputs["records"].name, instance.taxonomy.names
    made = [one for one in recipe.instances if isinstance(one.stage, MakePseudoLabels)]
    readers = [one.name for one in made if one.inputs["scores"].name == maps]
    by_class = [one for one in scores if one.by_class]
    for one in by_class:
        for reader in readers:
            yield f"[stages.{reader}.class_thresholds]  # {one.method}; for the recipe's file"
            given = {names[c - 1]: value or SMALLEST for c, value in one.by_class.items()}
            yield from (f"{json.dumps(name)} = {value:.8g}" for name, value in given.items())
    if by_class and not readers:
        yield f"no make_pseudo_labels of {recipe.settings.name} reads {maps}, so no class_thresholds are printed"
    own = {c for one in by_class for c in one.by_class}
    if without := [name for c, name in enumerate(names, start=1) if c not in own]:
        yield f"no threshold of their own, since they win no pixel; background_threshold holds: {', '.join(without)}"


def threshold_table(scores: Sequence[ThresholdScore], *, title: str) -> Table:
    """A row for each way to choose."""
    columns = [
        Column("chosen by", "method", role="name"),
        Column("a threshold for", "scope"),
        Column("uses masks", "masks"),
        Column("thresholds", "thresholds", right=True),
        Column("mean IoU %", "mean_iou", right=True),
    ]
    rows: list[list[Cell]] = [
        [one.method, one.scope, one.masks, _thresholds(one.thresholds), percent(one.mean_iou)] for one in scores
    ]
    several = "of several thresholds: the smallest, the median and the largest"
    return table_of(title, columns, rows, notes=(several,))


def _thresholds(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; status 1 if nothing can be measured."""
    parser = argparse.ArgumentParser(prog="python -m tuning.label_free", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path, metavar="RECIPE")
    parser.add_argument("instance", metavar="EVALUATE", help="an evaluate of score maps, such as evaluate_walk")
    parser.add_argument("--split", default="val")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    try:
        recipe = load_recipe(find_file(options.recipe, shipped=RECIPES), options.overrides)
        scores = measure(recipe.instance(options.instance), options.split)
    except RecipeError as error:
        print(f"label_free: {error}", file=sys.stderr)
        return 1
    print_table(threshold_table(scores, title=f"{recipe.settings.name}: {options.instance} on {options.split}"))
    for line in setting_lines(scores, recipe, recipe.instance(options.instance)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
