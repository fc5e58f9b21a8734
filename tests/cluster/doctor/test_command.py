from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.doctor import command, packages
from cluster.doctor.examined import Examined, summary, text_of
from cluster.doctor.packages import examine_packages
from wsss.__main__ import main


def test_the_list_fits_80_columns_and_commands_stay_whole() -> None:
    mend = "/home/somebody/with/a/long/path/.venv/bin/python -m pip install torch==2.15.0 torchvision==0.29.2"
    found = [
        Examined("fault", "packages", "not as needed: " + "torch 2.7.0 (>=2.8), " * 6, mend),
        Examined("note", "disk", "3 of 100 GB free"),
    ]
    lines = text_of(found).splitlines()
    assert f"      -> {mend}" in lines
    assert max(len(line) for line in lines if "->" not in line) <= 80
    assert lines[-1] == "1 fault, 1 note"
    assert summary([Examined("ok", "x", "y")]) == "in order"


def test_packages_that_are_missing_old_or_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=2.8", "timm>=1", 'onnx>=1; extra == "onnx"', 'pytest>=8; extra == "dev"']
    have = {"torch": "2.7.1", "timm": "1.0.31", "onnx": "", "pytest": ""}
    monkeypatch.setattr(packages, "requires", lambda name: needs)
    monkeypatch.setattr(packages, "installed", lambda name: have.get(name, ""))
    monkeypatch.setattr(packages, "pinned", lambda name, folder: "1.0.30" if name == "timm" else "")
    python, needed, tested, extra = examine_packages()
    assert python.state == "ok"
    assert needed.state == "fault" and "torch 2.7.1 (>=2.8)" in needed.found and needed.mend.endswith("'torch>=2.8'")
    assert tested.state == "note" and "timm 1.0.31 (tested: 1.0.30)" in tested.found
    assert tested.mend.endswith("timm==1.0.30")
    assert (extra.state, extra.what) == ("note", "onnx") and extra.mend.endswith("'wsss[onnx]'")


@pytest.mark.slow
def test_the_command_examines_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--runs", str(tmp_path / "runs"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {one["what"] for one in found} >= {"Python", "packages", "machine", "disk", "runs", "ports", "MLflow"}
    assert status == (1 if any(one["state"] == "fault" for one in found) else 0)
    assert not (tmp_path / "runs").exists()


def test_a_fault_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fault = Examined("fault", "disk", "full", "free some")
    monkeypatch.setattr(command, "examine", lambda runs, start: iter([fault]))
    assert command.doctor(Path("runs"), start=False, as_json=False) == 1
    assert "-> free some" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.extended
def test_ray_is_started_and_ended() -> None:
    assert command._started() == Examined("ok", "Ray", "started, ran a task, and ended")
