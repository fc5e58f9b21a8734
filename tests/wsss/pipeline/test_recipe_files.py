from __future__ import annotations

from pathlib import Path

import pytest

from wsss.__main__ import main
from wsss.pipeline.recipe_files import RECIPES, SWEEPS, find_file, near_files


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_shipped_file_is_found_by_its_name(here: Path) -> None:
    assert find_file(Path("toy"), shipped=RECIPES) == RECIPES / "toy.toml"
    assert find_file(Path("toy.toml"), shipped=RECIPES) == RECIPES / "toy.toml"
    assert find_file(Path("irnet_thresholds"), shipped=SWEEPS) == SWEEPS / "irnet_thresholds.toml"


def test_what_lies_here_comes_before_what_is_shipped(here: Path) -> None:
    (here / "toy.toml").write_text("")
    assert find_file(Path("toy"), shipped=RECIPES) == Path("toy.toml")
    (here / "toy").write_text("")
    assert find_file(Path("toy"), shipped=RECIPES) == Path("toy")


def test_a_path_is_taken_as_it_is(here: Path) -> None:
    for path in (Path("other/toy"), here / "toy", Path("toy.yaml")):
        assert find_file(path, shipped=RECIPES) == path


def test_what_is_called_nearly_so_is_suggested(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "flowers.toml").write_text("")
    assert near_files(Path("mine/flower.toml"), shipped=RECIPES) == "; did you mean mine/flowers.toml?"
    assert near_files(Path("toyy"), shipped=RECIPES) == "; did you mean toy?"
    assert near_files(Path("recipes/toy.toml"), shipped=RECIPES) == "; did you mean toy?"
    assert near_files(Path("nowhere/flowers.toml"), shipped=RECIPES) == "; there is no folder nowhere"
    assert near_files(Path("zzzzzz"), shipped=RECIPES).startswith("; shipped with the package: affinitynet_voc, ")
    assert near_files(Path("mine/zzzzzz.toml"), shipped=RECIPES) == ""


def test_commands_that_take_a_recipe_or_a_sweep_suggest_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "show", "plan", "results", "make-cams"):
        more = ["--gpu", "A100"] if command == "plan" else []
        assert main([command, "toyy", *more]) == 1
        assert capsys.readouterr().err == "wsss: the recipe does not exist: toyy; did you mean toy?\n"
    for command, given in (("show", "make_seed"), ("show", "make-seed"), ("run", "make_seeds")):
        assert main([command, given]) == 1
        assert "make_seeds is a kind of stage: wsss show make_seeds lists its settings" in capsys.readouterr().err
    assert main(["sweep", "irnet"]) == 1
    assert "wsss: the sweep does not exist: irnet; shipped with the package: back" in capsys.readouterr().err
    assert main(["sweep", "npa_tables"]) == 1
    assert (
        capsys.readouterr().err
        == "wsss: the sweep does not exist: npa_tables; did you mean npa_table or npa_lid_table?\n"
    )
    assert main(["sweep", str(here)]) == 1
    assert capsys.readouterr().err == f"wsss: the sweep cannot be read: {here}: Is a directory\n"
    assert main(["plan", "toy", "--gpus-per-node", "0", "--table", "figures"]) == 0
    assert "figures used (" in capsys.readouterr().out
