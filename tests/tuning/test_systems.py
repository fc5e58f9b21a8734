"""The script that runs the twins side by side, and the table that it declares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tuning import systems
from tuning.systems import ROWS, declaration, main
from tuning.tables.declaration import read_declarations
from tuning.tables.measurements import wanted
from tuning.twins import SYSTEMS


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOC_ROOT", raising=False)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes are taken to load."""
    monkeypatch.setattr(systems, "loaded", lambda *_, **__: None)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / systems.WEIGHTS).write_bytes(b"")
    return tmp_path


def test_the_declared_table_names_instances_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "systems.toml").write_text(declaration(ROWS))
    table = read_declarations(tmp_path)["systems"]
    found = wanted("systems", table)
    assert {row.system for row in ROWS} == {*SYSTEMS, systems.CEILING}
    assert ("voc_animals_irnet:evaluate_labels_crf", systems.ARGUMENTS) in found
    assert ("voc_animals_dsrg:evaluate_first", systems.ARGUMENTS) in found
    by_split = {key[0]: instance.stage.splits for key, instance in found.items()}  # type: ignore[attr-defined]
    for row in table.rows:
        for name, source in row.sources.items():
            assert by_split[source.instance] == (("val",) if name == "segmentation" else ("train", "val"))


@pytest.mark.usefixtures("data")
def test_every_system_is_run_once_before_a_second_seed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[bytes]:
        assert command[:4] == [sys.executable, "-m", "wsss", "run"] and not check
        ran.append((Path(command[4]).stem, command[-1]))
        return subprocess.CompletedProcess(command, int("sec" in command[4]))

    monkeypatch.setattr(systems.subprocess, "run", run)
    given = ["--runs", str(weights / "runs"), "--weights", str(weights), "--seeds", "1", "2", "--only", "sec", "dsrg"]
    assert main(given) == 1, "a system that failed is reported"
    names = ["voc_animals_sec", "voc_animals_dsrg"]
    assert ran == [(name, f"recipe.seed={seed}") for seed in (1, 2) for name in names]


def test_second_seeds_and_shares_of_the_ceiling_are_declared_where_they_are_measured(tmp_path: Path) -> None:
    (tmp_path / "systems.toml").write_text(declaration(ROWS, twice={"sec"}))
    table = read_declarations(tmp_path)["systems"]
    assert ("voc_animals_sec:evaluate", (*systems.ARGUMENTS, "recipe.seed=2")) in wanted("systems", table)
    assert [row.text[0] for row in table.rows if "second" in row.sources] == ["SEC"]
    assert {row.of for row in table.rows[:-1]} == {table.rows[-1].text[0]} and table.rows[-1].of == ""
    assert "second seed" in [column.title for column in table.columns]
    (tmp_path / "systems.toml").write_text(declaration(ROWS[:2]))
    columns = [column.title for column in read_declarations(tmp_path)["systems"].columns]
    assert "of the ceiling" not in columns and "second seed" not in columns


@pytest.mark.usefixtures("data")
def test_the_ceiling_is_trained_once(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[bytes]:
        ran.append(f"{Path(command[4]).stem} {command[-1]}")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(systems.subprocess, "run", run)
    given = ["--runs", str(weights), "--weights", str(weights), "--seeds", "1", "2", "--only", "sec", "ceiling"]
    assert main(given) == 0
    of = ["sec recipe.seed=1", "ceiling recipe.seed=1", "sec recipe.seed=2"]
    assert ran == [f"voc_animals_{one}" for one in of]


@pytest.mark.usefixtures("data")
def test_no_system_is_started_after_the_hours(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(systems.subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert main(["--runs", str(weights), "--weights", str(weights), "--hours", "1e-12", "--only", "sec"]) == 1
    assert "sec, seed 1: not started" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--hours", "nan"], "argument --hours: nan is not allowed; give a number of hours above 0"),
        (["--hours", "0"], "argument --hours: 0 is not allowed"),
        (["--seeds", "-1"], "argument --seeds: -1 is not allowed; give a whole number from 0"),
        (["--declare", "--seeds", "3"], "--declare takes no --seeds"),
    ],
)
def test_wrong_arguments(weights: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--runs", str(weights), "--weights", str(weights), *given])
    assert message in capsys.readouterr().err


def test_data_that_are_not_there_are_said_once_and_nothing_is_started(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems.subprocess, "run", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(SystemExit, match="environment variable VOC_ROOT, which is not set"):
        main(["--runs", str(weights), "--weights", str(weights)])


@pytest.mark.usefixtures("data")
def test_declaring_keeps_the_rows_that_were_measured_elsewhere(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systems.toml").write_text(declaration(ROWS[:3], twice={"irnet"}))
    monkeypatch.setattr(systems, "measured", lambda system, *, seed=1, **_: system == "sec")
    assert main(["--runs", str(weights), "--weights", str(weights), "--declare"], declared=tmp_path) == 1
    rows = read_declarations(tmp_path)["systems"].rows
    assert [row.text[0] for row in rows] == ["IRNet", *(row.title for row in ROWS[1:3]), "SEC"]
    assert [row.text[0] for row in rows if "second" in row.sources] == ["IRNet", "SEC"]


def test_weights_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--runs", str(tmp_path), "--weights", str(tmp_path)])
    assert f"there is no {systems.WEIGHTS}" in capsys.readouterr().err
