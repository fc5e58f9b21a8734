"""Errors of the command line that name what was typed, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss.__main__ import main


@pytest.mark.parametrize(
    "words", [["doctor"], ["leaderboard"], ["compare", "a", "b"], ["show", "toy"], ["results", "toy"]]
)
def test_a_file_as_the_folder_of_runs(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--runs", str(path)])
    assert ended.value.code == 2
    assert f"argument --runs: {path} is a file; name a folder of runs" in capsys.readouterr().err


def test_a_file_as_runtime_runs_before_ray_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("")
    assert main(["run", "toy", "--set", f"runtime.runs={path}"]) == 1
    printed = capsys.readouterr()
    assert f"{path} is a file; name a folder" in printed.err and "starting Ray" not in printed.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no_such_recipe"], "the recipe does not exist: no_such_recipe"),
        (["toy", "--images", "foo"], "--images foo: write a number"),
        (["toy", "--nodes", "0"], "--nodes 0: it must be above 0"),
        (["toy"], "--gpus-per-node 8: give --gpu NAME"),
    ],
)
def test_a_plan_names_first_what_was_typed(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("name", "said"), [("nope", "does not exist"), ("file.txt", "is a file")])
def test_a_layer_that_is_no_folder(name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.txt").write_text("")
    assert main(["shards", "lint", str(tmp_path / name)]) == 1
    assert f"{tmp_path / name} {said}; give the folder of a finished layer" in capsys.readouterr().err
