"""The command line, frozen: a change here is a change for every user and every script of theirs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from wsss.__main__ import COMMANDS, main
from wsss.arguments import STAGE_COMMANDS, parser
from wsss.stages.registry import STAGES

RECIPE = ["recipe", "--set"]
PLACE = ["--on", "--debug"]
STAGE = [*RECIPE, *PLACE]
FROZEN = {
    "run": [*RECIPE, "--from", "--to", *PLACE],
    "show": RECIPE,
    "plan": [
        *RECIPE,
        "--nodes",
        "--gpus-per-node",
        "--gpu",
        "--images",
        "--cores-per-node",
        "--network-gbps",
        "--storage-gbps",
    ],
    "demo": ["--set", *PLACE],
    "build-shards": STAGE,
    "train-classifier": STAGE,
    "make-cams": STAGE,
    "make-seeds": STAGE,
    "train-affinity": STAGE,
    "make-scores": STAGE,
    "make-pseudo-labels": STAGE,
    "make-instance-labels": STAGE,
    "train-ancillary": STAGE,
    "train-correction": STAGE,
    "train-segmenter": STAGE,
    "make-segmenter-maps": STAGE,
    "predict": STAGE,
    "evaluate": STAGE,
    "submit": STAGE,
    "shards info": ["paths", "--pictures"],
    "shards lint": ["paths"],
    "shards preview": ["paths", "--pictures"],
    "sweep": ["sweep", "--set", *PLACE],
    "leaderboard": ["--all", "--runs", "--tracking-uri"],
    "compare": ["first", "second", "--runs", "--tracking-uri"],
    "check-submission": ["file", "--samples", "--split", "--num-classes"],
}


def words(command: argparse.ArgumentParser, prefix: str = "") -> dict[str, list[str]]:
    """Subcommand -> its arguments, all the way down."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            nested = [words(sub, f"{prefix} {name}".strip()) for name, sub in action.choices.items()]
            return {name: arguments for part in nested for name, arguments in part.items()}
    own = [(action.option_strings or [action.dest])[-1] for action in command._actions]
    return {prefix: [word for word in own if word != "--help"]}


def test_commands_and_options_are_frozen() -> None:
    assert words(parser()) == FROZEN


def test_every_kind_of_stage_is_a_command() -> None:
    assert tuple(kind.replace("_", "-") for kind in STAGES) == STAGE_COMMANDS


def test_every_command_does_something() -> None:
    assert set(COMMANDS) == {name.split()[0] for name in FROZEN}


def test_values_reach_their_places() -> None:
    options = parser().parse_args(["run", "r.toml", "--from", "a", "--to", "b", "--set", "x.y=1", "--set", "z.w=2"])
    assert (options.recipe, options.first, options.last) == (Path("r.toml"), "a", "b")
    assert options.overrides == ["x.y=1", "z.w=2"]
    assert options.on == "ray"
    assert parser().parse_args(["make-cams", "r.toml", "--on", "local"]).on == "local"
    assert parser().parse_args(["check-submission", "results.zip"]).num_classes == 200


def test_show_loads_neither_ray_nor_deepspeed_nor_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from wsss.__main__ import main; status = main(sys.argv[1:]);"
        "heavy = {'ray', 'deepspeed', 'mlflow', 'timm', 'albumentations'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    recipe = ROOT / "tuning" / "recipes" / "toy.toml"
    command = [sys.executable, "-c", code, "show", str(recipe), "--set", f"runtime.runs={tmp_path}/runs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "make_pseudo_labels.background_threshold" in done.stdout
    assert not (tmp_path / "runs").exists(), "showing a recipe writes nothing"


def test_plan_loads_neither_ray_nor_deepspeed_nor_mlflow() -> None:
    code = (
        "import sys; from wsss.__main__ import main; status = main(sys.argv[1:]);"
        "heavy = {'ray', 'deepspeed', 'mlflow', 'albumentations'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    recipe = ROOT / "tuning" / "recipes" / "npa.toml"
    command = [sys.executable, "-c", code, "plan", str(recipe), "--gpu", "A100"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "train_segmenter" in done.stdout


def test_help_loads_no_torch() -> None:
    code = "import sys; from wsss.arguments import parser; parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def test_a_fault_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "none.toml")]) == 1
    assert capsys.readouterr().err == f"wsss: the recipe does not exist: {tmp_path}/none.toml\n"
    assert main(["shards", "info", str(tmp_path)]) == 1
    assert "holds no complete layer" in capsys.readouterr().err
    assert main(["check-submission", str(tmp_path / "none.zip")]) == 1
    assert f"there is no file {tmp_path}/none.zip" in capsys.readouterr().err
    assert main(["show", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"wsss: the recipe cannot be read: {tmp_path}: Is a directory\n"
    assert main(["leaderboard", "--runs", str(tmp_path / "none")]) == 1
    assert f"there is no folder {tmp_path}/none" in capsys.readouterr().err
    recipe = str(ROOT / "tuning" / "recipes" / "toy.toml")
    assert main(["show", recipe, "--set", "make_cams.flp=true"]) == 1
    assert "did you mean flip?" in capsys.readouterr().err
    assert main(["show", recipe, "--set", "make_cams.scales=[]"]) == 1
    assert "make_cams.scales" in capsys.readouterr().err


def test_a_place_that_is_none_is_told_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, runs = str(ROOT / "tuning" / "recipes" / "toy.toml"), tmp_path / "runs"
    assert main(["run", recipe, "--set", f"runtime.runs={runs}", "--on", "nowhere"]) == 1
    assert "--on nowhere: allowed are ray (this machine), local" in capsys.readouterr().err


def test_an_unknown_encoder_is_told_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, runs = str(ROOT / "tuning" / "recipes" / "toy.toml"), tmp_path / "runs"
    overrides = [
        "--set",
        f"runtime.runs={runs}",
        *(
            word
            for name in ("train_classifier", "train_ficklenet", "train_affinity", "train_segmenter")
            for word in ("--set", f"{name}.encoder=resnet_50")
        ),
    ]
    assert main(["run", recipe, *overrides, "--on", "local"]) == 1
    assert "train_classifier.encoder: no encoder is called 'resnet_50'; did you mean" in capsys.readouterr().err
    assert not list(runs.glob("store/*/run.json"))
