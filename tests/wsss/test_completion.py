"""Completion of the command line: what is offered, and that the shells themselves take it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from wsss.__main__ import main
from wsss.arguments import parser
from wsss.completion import answer, candidates, script
from wsss.pipeline.recipe_files import RECIPES

BREAKS = " \t\n\"'><=;|&(:"
"""bash's own COMP_WORDBREAKS."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers.toml").write_text('[recipe]\nname = "x"\n[stages.seeds]\nkind = "make_seeds"\n')
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_commands_options_and_choices(here: Path) -> None:
    assert candidates([""]) == sorted(parser().subparsers())
    assert candidates(["sh"]) == ["shards", "show"]
    assert candidates(["shards", ""]) == ["info", "lint", "preview"]
    assert candidates(["completion", ""]) == ["bash", "fish", "zsh"]
    assert candidates(["run", "toy", "--"]) == ["--debug", "--from", "--help", "--on", "--set", "--to"]
    left = ["--debug", "--from", "--help", "--set", "--to"]
    assert candidates(["run", "toy", "--on", "local", "--set", "a=b", "--"]) == left
    assert candidates(["run", "--on", ""]) == ["auto", "local", "ray"]
    assert candidates(["show", "toy", "--table", ""]) == ["instances", "settings"]
    assert candidates(["show", "toy", "--csv", "--"]) == ["--changed", "--help", "--runs", "--set", "--table"]
    assert candidates(["cluster", ""]) == ["certificates", "check", "down", "mlflow"]
    assert candidates(["cluster", "check", "--running", "a"]) == ["auto"]
    assert candidates(["cluster", "down", "no"]) == ["notes.txt"]
    assert "A100" in candidates(["plan", "lid", "--gpu", ""])


def test_files_of_the_kind_that_is_taken(here: Path) -> None:
    shipped = {path.stem for path in RECIPES.glob("*.toml")}
    assert set(candidates(["run", ""])) == {*shipped, "flowers.toml", "folder/"}
    assert {"make_seeds", "runtime"} <= set(candidates(["show", ""]))
    assert candidates(["sweep", "irnet"]) == ["irnet_thresholds"]
    assert candidates(["check-submission", "no"]) == ["notes.txt"]
    assert candidates(["leaderboard", "--runs", "fo"]) == ["folder/"]
    assert candidates(["run", "nowhere/"]) == []


def test_instances_and_settings_of_the_recipe(here: Path) -> None:
    assert candidates(["run", "toy", "--from", "make_c"]) == ["make_cams"]
    assert candidates(["show", "flowers.toml", ""]) == ["seeds"]
    assert candidates(["run", "flowers.toml", "--set", ""]) == ["recipe.", "runtime.", "seeds."]
    assert candidates(["run", "flowers.toml", "--set", "seeds.ru"]) == ["seeds.rule="]
    assert candidates(["run", "flowers.toml", "--set", "seeds.refine="]) == ["seeds.refine=crf", "seeds.refine=none"]
    assert candidates(["run", "flowers.toml", "--set=seeds.ru"]) == ["--set=seeds.rule="]
    assert candidates(["run", "toy", "--set", "make_cams.flip="]) == ["make_cams.flip=false", "make_cams.flip=true"]
    assert candidates(["run", "toy", "--set", "runtime.trac"]) == ["runtime.tracking_uri="]
    assert "runtime.stages=" not in candidates(["run", "toy", "--set", "runtime."])
    assert candidates(["run", "flowers.toml", "--set", "runtime.seeds"]) == ["runtime.seeds."]
    assert candidates(["run", "flowers.toml", "--set", "runtime.make_s"]) == ["runtime.make_seeds."]
    actors = [f"runtime.seeds.{name}=" for name in ("actor_cpus", "actor_gpus", "num_actors")]
    assert candidates(["run", "flowers.toml", "--set", "runtime.seeds."]) == actors
    assert candidates(["run", "toy", "--set", "runtime.train_segmenter.rank_g"]) == [
        "runtime.train_segmenter.rank_gpus="
    ]
    assert candidates(["demo", "--set", "make_se"]) == ["make_seeds."], "the demo runs the toy recipe"
    assert candidates(["run", "none.toml", "--set", "seeds."]) == []


def test_bash_replaces_only_what_stands_behind_its_word_breaks(here: Path) -> None:
    assert answer(["bash", "wsss run flowers.toml --set seeds.refine=n", BREAKS]) == "none\n"
    assert answer(["bash", "wsss run flowers.toml --set seeds.refine=n", " "]) == "seeds.refine=none\n"
    assert answer(["bash", "wsss run flo", BREAKS]) == "flowers.toml\n"
    (here / "my file.toml").write_text("")
    assert answer(["bash", "wsss run my", BREAKS]) == "my\\ file.toml\n"
    assert answer(["bash", "wsss run 'my", BREAKS]) == "my\\ file.toml\n"
    assert answer(["fish", "run", "my"]) == "my file.toml\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == script(shell)


@pytest.fixture
def environment(here: Path) -> dict[str, str]:
    """A `wsss` on the path that runs this checkout."""
    program = here / "bin" / "wsss"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsss "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


LINES = {"wsss sh": ["shards", "show"], "wsss run flowers.toml --fr": ["--from"], "wsss run flow": ["flowers.toml"]}


def test_bash_itself_completes(environment: dict[str, str], here: Path) -> None:
    (here / "complete.bash").write_text(script("bash"))
    for line, expected in LINES.items():
        code = (
            f"source complete.bash; COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=($COMP_LINE); _wsss; "
            'printf "%s\\n" "${COMPREPLY[@]}"; complete -p wsss'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", code], env=environment, cwd=here, capture_output=True, text=True, timeout=300
        )
        assert done.stdout.splitlines() == [*expected, "complete -F _wsss wsss"], done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_itself_completes(environment: dict[str, str], here: Path) -> None:
    for line, expected in LINES.items():
        code = f"wsss completion fish | source; complete -C {line!r}"
        done = subprocess.run(
            ["fish", "--no-config", "-c", code], env=environment, cwd=here, capture_output=True, text=True, timeout=300
        )
        assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_itself_completes(environment: dict[str, str], here: Path) -> None:
    """In a terminal of zsh's own, as only an editing line completes; what it inserted is printed by the command."""
    code = r"""
zmodload zsh/zpty; zpty one zsh -f -i
zpty -w one 'bindkey -e; autoload -Uz compinit; compinit -D -u; eval "$(wsss completion zsh)"; echo rea""dy'
zpty -r one out '*ready*'
zpty -w -n one $'wsss run flow\t--fr\tx\C-aecho fou""nd: \n'
zpty -r one out '*found: *x*'
print -r -- "${out##*found: }"
"""
    done = subprocess.run(
        ["zsh", "-f", "-c", code], env=environment, cwd=here, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("wsss run flowers.toml --from x"), done.stdout + done.stderr
