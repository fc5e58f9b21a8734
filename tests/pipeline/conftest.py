from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.pipeline.chain import run, tiny
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.run import RunSummary


@dataclass(frozen=True)
class Finished:
    """The tiny recipe, run from its first instance to its last, once for all tests. Tests leave its files alone."""

    recipe: Recipe
    summary: RunSummary


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    recipe = tiny(tmp_path_factory.mktemp("tiny") / "runs")
    return Finished(recipe, run(recipe))
