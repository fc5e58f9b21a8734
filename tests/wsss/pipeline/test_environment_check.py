"""Networks are built before anything runs; a driver without torch stays without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.architecture.sources import ROOT
from tests.pipeline.chain import tiny
from wsss.contract.stage import Stage
from wsss.pipeline import environment_check
from wsss.pipeline.environment_check import check_environments
from wsss.pipeline.recipe import RecipeError
from wsss.stages.train_classifier import TrainClassifier

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


def test_a_weight_file_that_does_not_fit_is_named_by_its_setting(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, other)
    with pytest.raises(RecipeError, match=r"^train_classifier.pretrained = '.*other.safetensors' does not fit encoder"):
        check_environments(tiny(tmp_path, f"train_classifier.pretrained={other}").instances)


def test_an_instance_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Ray starts and by what runs it: networks are built once."""
    recipe = tiny(tmp_path, "recipe.seed=77")
    monkeypatch.setattr(environment_check, "_SOUND", set())  # tests before this one may have checked an equal instance
    checked: list[str] = []
    monkeypatch.setattr(Stage, "check_environment", lambda stage, instance: checked.append(instance.name))
    monkeypatch.setattr(TrainClassifier, "check_environment", lambda stage, instance: checked.append(instance.name))
    check_environments(recipe.instances[:2])
    check_environments(recipe.instances[:2])
    assert checked == [one.name for one in recipe.instances[:2]]
