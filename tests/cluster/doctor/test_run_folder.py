from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.doctor import run_folder
from cluster.doctor.run_folder import examine_folder
from cluster.tracking.network_folders import NetworkMount


def states(path: Path) -> list[tuple[str, str]]:
    return [(one.what, one.state) for one in examine_folder(path)]


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=100 << 30, free=50 << 30))
    assert states(tmp_path / "a" / "runs") == [("disk", "ok"), ("runs", "ok")]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_little_space_and_network_folders_are_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=100 << 30, free=1 << 30))
    monkeypatch.setattr(run_folder, "network_mount", lambda path: NetworkMount("nfs4", Path("/mnt")))
    found = list(examine_folder(tmp_path))
    assert [(one.what, one.state) for one in found] == [("disk", "note"), ("runs", "note"), ("disk", "note")]
    assert "is on nfs4 at /mnt" in found[1].found and "MLFLOW_TRACKING_URI" in found[1].mend


def test_a_folder_that_cannot_be_written_to() -> None:
    found = [one for one in examine_folder(Path("/proc/runs")) if one.what == "runs"]
    assert [one.state for one in found] == ["fault"] and "cannot be written to" in found[0].found


def test_a_file_system_without_locks_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLock:
        def __init__(self, path: Path, is_singleton: bool) -> None: ...
        def acquire(self, timeout: float) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(run_folder, "FileLock", NoLock)
    (found,) = [one for one in examine_folder(tmp_path) if one.what == "runs"]
    assert found.state == "fault" and "does not lock files" in found.found
