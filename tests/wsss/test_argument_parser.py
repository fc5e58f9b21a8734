"""A file is no folder of runs, in any command."""

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
