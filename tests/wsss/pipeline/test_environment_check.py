"""Networks are built before anything runs; a driver without torch stays without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tests.pipeline.chain import tiny
from wsss.pipeline.environment_check import check_environments
from wsss.pipeline.recipe import RecipeError

SCRIPT = """
import sys
from pathlib import Path
from wsss.pipeline.environment_check import check_environments
from wsss.pipeline.recipe import RecipeError, load_recipe

if __name__ == "__main__":
    recipe = load_recipe(Path("tests/recipes/tiny.toml"), ["runtime.runs=" + sys.argv[1], *sys.argv[2:]])
    try:
        check_environments(recipe.instances)
    except RecipeError as error:
        print(error)
    print("torch" in sys.modules)
"""
UNKNOWN = "train_classifier.encoder=no_such_encoder"


def checked(folder: Path, *overrides: str) -> list[str]:
    """What a process without torch prints."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), *overrides]
    result = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


@pytest.mark.slow
def test_a_process_without_torch_has_the_same_errors_and_stays_without_it(tmp_path: Path) -> None:
    assert checked(tmp_path) == ["False"]
    with pytest.raises(RecipeError) as error:
        check_environments(tiny(tmp_path, UNKNOWN).instances)
    assert str(error.value).startswith("train_classifier.encoder: unknown encoder 'no_such_encoder'")
    assert checked(tmp_path, UNKNOWN) == [str(error.value), "False"]
