"""The command line is fixed by these tests, because a change affects every user and their scripts."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from wsss.__main__ import COMMANDS, main
from wsss.arguments import parser, stage_commands
from wsss.stages.registry import STAGES

RECIPE = ["recipe", "--set"]
PLACE = ["--on", "--debug"]
STAGE = [*RECIPE, *PLACE]
ONE_FORM = ["--json", "--csv"]
FORM = [*ONE_FORM, "--table"]
"""How the tables are printed; `--table` if there are several."""
FROZEN = {
    "run": [*RECIPE, "--from", "--to", *PLACE],
    "show": [*RECIPE, "instance", "--runs", "--changed", *FORM],
    "results": [*RECIPE, "--runs", *FORM],
    "explain": [*RECIPE, "key", "--runs", "--output"],
    "plan": [
        *RECIPE,
        "--nodes",
        "--gpus-per-node",
        "--gpu",
        "--images",
        "--measured",
        "--cores-per-node",
        "--network-gbps",
        "--storage-gbps",
        "--prices",
        *FORM,
    ],
    "demo": ["--set", *PLACE],
    "build-shards": STAGE,
    "train-classifier": STAGE,
    "make-cams": STAGE,
    "make-prototypes": STAGE,
    "make-seeds": STAGE,
    "train-affinity": STAGE,
    "make-scores": STAGE,
    "make-pseudo-labels": STAGE,
    "make-agreed-labels": STAGE,
    "keep-reliable-labels": STAGE,
    "make-instance-labels": STAGE,
    "train-ancillary": STAGE,
    "train-correction": STAGE,
    "train-segmenter": STAGE,
    "make-segmenter-maps": STAGE,
    "predict": STAGE,
    "evaluate": STAGE,
    "submit": STAGE,
    "shards info": ["paths", "--pictures", *FORM],
    "shards lint": ["paths"],
    "shards preview": ["paths", "--pictures"],
    "sweep": ["sweep", "--set", "--dry-run", *PLACE],
    "leaderboard": ["--all", "--sort", "--where", "--no-published", "--runs", "--tracking-uri", *ONE_FORM],
    "compare": ["first", "others", "--common", "--recorded", "--pictures", "--runs", "--tracking-uri", *FORM],
    "report": ["names", "--output", "--runs", "--tracking-uri"],
    "check-submission": ["file", "--samples", "--split", "--num-classes", "--format"],
    "predict-folder": ["model", "folder", "out", "--overlay", "--coco", "--scales", "--flip", "--crf", "--set", *PLACE],
    "label-folder": [
        "model",
        "folder",
        "labels",
        "out",
        "--overlay",
        "--coco",
        "--affinity",
        "--recipe",
        "--split",
        "--set",
        *PLACE,
    ],
    "export": ["model", "--onnx", "--smp", "--pictures", "--weights"],
    "doctor": ["--runs", "--start", "--json"],
    "cluster check": ["file", "--running", "--here", "--runs"],
    "cluster down": ["file", "--keep-files"],
    "cluster certificates": ["--node", "--days"],
    "cluster mlflow": ["file", "--serve", "--stop", "--port"],
    "completion": ["shell"],
}


def words(command: argparse.ArgumentParser, prefix: str = "") -> dict[str, list[str]]:
    """Subcommand -> its arguments, for nested subcommands too."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            nested = [words(sub, f"{prefix} {name}".strip()) for name, sub in action.choices.items()]
            return {name: arguments for part in nested for name, arguments in part.items()}
    own = [(action.option_strings or [action.dest])[-1] for action in command._actions]
    return {prefix: [word for word in own if word != "--help"]}


def test_commands_and_options_are_frozen() -> None:
    found = words(parser())
    assert {name: set(arguments) for name, arguments in found.items()} == {
        name: set(arguments) for name, arguments in FROZEN.items()
    }
    assert all(len(arguments) == len(set(arguments)) for arguments in found.values())


def test_every_kind_of_stage_is_a_command() -> None:
    assert list(stage_commands().values()) == list(STAGES)
    assert set(stage_commands()) <= set(FROZEN)


def test_a_kind_from_another_package_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STAGES, "_announced", {"paint_maps": None})
    options = parser().parse_args(["paint-maps", "toy", "--on", "local"])
    assert (options.command, options.on) == ("paint-maps", "local")
    assert "paint-maps" in parser().format_help()


def test_every_command_does_something() -> None:
    assert set(COMMANDS) | set(stage_commands()) == {name.split()[0] for name in FROZEN}


def test_values_reach_their_places() -> None:
    options = parser().parse_args(["run", "r.toml", "--from", "a", "--to", "b", "--set", "x.y=1", "--set", "z.w=2"])
    assert (options.recipe, options.first, options.last) == (Path("r.toml"), "a", "b")
    assert options.overrides == ["x.y=1", "z.w=2"]
    assert options.on == "ray"
    assert parser().parse_args(["make-cams", "r.toml", "--on", "local"]).on == "local"
    assert parser().parse_args(["check-submission", "results.zip"]).num_classes == 200


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


@pytest.mark.parametrize("name", ["", *FROZEN, "shards", "cluster"])
def test_help_fits_80_columns_and_gives_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert max(map(len, text.splitlines())) <= 80
    if name not in ("", "shards", "cluster"):
        assert "\nexample:\n  " in text
        assert text.partition("\nexample:\n")[2].lstrip().startswith(("wsss", "eval")), "an example is a command"


@pytest.mark.parametrize("name", FROZEN)
def test_examples_of_the_help_are_understood(name: str) -> None:
    command = parser()
    for word in name.split():
        command = command.subparsers()[word]
    for line in (command.epilog or "").splitlines()[1:]:
        example = line.strip().partition("   ")[0]
        if example.startswith("wsss "):
            parser().parse_args(shlex.split(example.partition(" | ")[0])[1:])


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: wsss ") and "make-cams" in text and "leaderboard" in text
    assert main(["shards"]) == 0
    assert "preview" in capsys.readouterr().out
    assert main(["cluster"]) == 0
    assert "certificates" in capsys.readouterr().out


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (ended.value.code, capsys.readouterr().out) == (0, f"wsss {project['version']}\n")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("shwo toy", "wsss: unknown command 'shwo'; did you mean show?"),
        ("makecams toy", "wsss: unknown command 'makecams'; did you mean make-cams"),
        ("shards lnt x", "wsss shards: unknown command 'lnt'; did you mean lint?"),
        ("show toy --chagned", "wsss show: unknown option '--chagned'; did you mean --changed?"),
        (
            "leaderboard --set runtime.runs=x",
            "wsss leaderboard: it reads no recipe, so there is nothing to --set; --runs",
        ),
        ("run toy --form=make_cams", "wsss run: unknown option '--form'; did you mean --from"),
        ("show toy --table setings", "unknown value 'setings'; did you mean settings?"),
        ("completion csh", "unknown value 'csh'; did you mean zsh"),
        ("run toy other", "wsss run: unexpected argument 'other'"),
        ("zzz", "wsss: unknown command 'zzz'; there are run, demo"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_fault_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_an_unknown_place_is_reported_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, runs = str(ROOT / "tuning" / "recipes" / "toy.toml"), tmp_path / "runs"
    for command in (["run", recipe], ["demo"], ["make-cams", recipe], ["sweep", "irnet_thresholds"]):
        assert main([*command, "--set", f"runtime.runs={runs}", "--on", "nowhere"]) == 1
        assert capsys.readouterr().err.startswith("wsss: --on nowhere: allowed are ray (this machine), local")


def test_an_unknown_encoder_is_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "train_classifier.encoder: unknown encoder 'resnet_50'; did you mean" in capsys.readouterr().err
    assert not list(runs.glob("store/*/run.json"))


@pytest.mark.parametrize(
    "words", [["leaderboard", "--runs", ""], ["cluster", "check", "--here", "--runs", " "], ["run", ""]]
)
def test_an_empty_path_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As from a variable of the shell that is not set; it would be the current folder."""
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(words)
    assert caught.value.code == 2 and "it is empty; name a file or folder" in capsys.readouterr().err
