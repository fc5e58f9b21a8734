"""Recipes read for a look or a plan on a machine that does not have their data."""

from __future__ import annotations

from pathlib import Path

from wsss.contract.stage import ClassesNotKnownError, DataStage, Stage
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.recipe_tables import RecipeError


def dry_recipe(path: Path, overrides: list[str]) -> tuple[Recipe, str]:
    """A recipe whose data need not be available, and the reason they are not used ("" if they are available).

    Raises: `RecipeError` for any other error in the recipe.
    """
    try:
        return load_recipe(path, overrides), ""
    except RecipeError as error:
        with_data = str(error)
    try:
        return load_recipe(path, overrides, stand_in=without_data), with_data
    except RecipeError as error:
        if isinstance(error.__cause__, ClassesNotKnownError):  # so this look needs the data: why they cannot be read
            raise RecipeError(with_data) from None
        raise


def without_data(stage: Stage) -> Stage:
    """A stand-in of `load_recipe`: a stage that makes samples, without reading its data."""
    return stage.without_data() if isinstance(stage, DataStage) else stage
