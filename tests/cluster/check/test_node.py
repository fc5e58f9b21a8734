from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from cluster.check import node, versions
from cluster.check.node import check_here, facts, node_faults, on_own_disk

HEALTHY: dict[str, Any] = {
    "host": "w1",
    "versions": {"torch": "2.15.0"},
    "open_files": 65536,
    "cuda": "13.2",
    "drivers": ["580.105.08"],
}


@pytest.mark.parametrize(
    ("change", "gpus", "message"),
    [
        ({}, 1, ""),
        ({"drivers": []}, 0, ""),
        ({"drivers": ["595.71.05", "595.71.05"]}, 2, ""),
        ({"open_files": 1024}, 1, "at most 1024 open files; at least 8192 are needed"),
        ({"drivers": []}, 1, "is to offer 1 GPUs, but nvidia-smi finds none: install NVIDIA's driver 580 or later"),
        ({}, 4, "is to offer 4 GPUs, but has 1"),
        ({"drivers": ["570.86.15"]}, 1, "the GPU driver 570.86.15 is too old for CUDA 13.2, which torch 2.15.0"),
        ({"drivers": ["570.86.15"]}, 0, "at least 580 is needed"),
        ({"drivers": ["570.86.15"], "cuda": "12.8"}, 1, ""),
        ({"drivers": ["470.82.01"], "cuda": "12.8"}, 1, "at least 525 is needed"),
    ],
)
def test_faults_of_a_node(change: dict[str, Any], gpus: float, message: str) -> None:
    found = list(node_faults({**HEALTHY, **change}, gpus=gpus))
    assert len(found) == bool(message)
    assert all(finding.where == "w1" and message in finding.text for finding in found)


def test_facts_of_this_machine() -> None:
    known = facts()
    assert known["versions"]["ray"].startswith("2.") and known["cuda"].count(".") == 1
    assert known["open_files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a token, no GPU, and open files enough; `nvidia-smi` can be put into its folder bin."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("ab" * 32)
    (tmp_path / ".ray/auth_token").chmod(0o600)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(node, "OPEN_FILES", 1)
    monkeypatch.setattr(node, "_SMALL_SHM", 0)
    monkeypatch.setattr(node, "on_own_disk", lambda folder: False)
    for name in ("RAY_OVERRIDE_RESOURCES", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_gpu_node_is_recognised_by_what_ray_passes_on(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_here(runs=machine) == []
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 8, "GPU": 1}')
    (found,) = check_here(runs=None)
    assert found.refused and "is to offer 1 GPUs, but nvidia-smi finds none" in found.text
    nvidia_smi(machine, "echo 570.86.15")
    (found,) = check_here(runs=None)
    assert "the GPU driver 570.86.15 is too old for CUDA" in found.text
    nvidia_smi(machine, "echo 580.105.08")
    assert check_here(runs=None) == []
    nvidia_smi(machine, "echo Failed to initialize NVML; exit 9")
    (found,) = check_here(runs=None)
    assert "nvidia-smi finds none" in found.text


def test_the_folder_of_runs_must_be_writable(machine: Path) -> None:
    (machine / "runs").mkdir()
    assert check_here(runs=machine / "runs") == [] and not list((machine / "runs").iterdir())
    (machine / "file").write_text("")
    (found,) = check_here(runs=machine / "file" / "runs")
    assert found.refused and f"cannot write into {machine}/file/runs (Not a directory)" in found.text


def test_a_folder_of_runs_that_is_not_there_is_refused_and_not_made(machine: Path) -> None:
    """On a node that lacks the mount it would be a folder of the node's own."""
    (found,) = check_here(runs=machine / "mnt" / "runs")
    assert found.refused and f"cannot write into {machine}/mnt/runs (No such file or directory); mount" in found.text
    assert not (machine / "mnt").exists()


def test_a_folder_on_the_machines_own_disk_is_noted(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "on_own_disk", lambda folder: True)
    (found,) = check_here(runs=machine)
    assert not found.refused and "is on the same file system as /" in found.text
    assert on_own_disk(Path("/")) and not on_own_disk(Path("/proc"))


def test_the_token_must_be_there_and_secret(machine: Path) -> None:
    token = machine / ".ray/auth_token"
    token.chmod(0o640)
    (found,) = check_here(runs=None)
    assert "others may read the token" in found.text
    token.unlink()
    (found,) = check_here(runs=None)
    assert "there is no token ~/.ray/auth_token" in found.text


def test_another_version_than_the_tested_one_is_refused(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "pinned", lambda package, folder: "9.9" if package == "ray" else "")
    (found,) = check_here(runs=None)
    assert found.refused and "constraints.txt 9.9" in found.text


def test_a_small_shared_memory_is_a_note(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_SMALL_SHM", 1 << 62)
    (found,) = check_here(runs=None)
    assert not found.refused and "--shm-size" in found.text


def test_versions(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("ray==1.2.3\nray-x==4\n")
    assert versions.pinned("ray", tmp_path) == "1.2.3"
    assert versions.pinned("torch", tmp_path) == versions.pinned("ray", tmp_path / "none") == ""
    assert versions.installed("no-such-package-here") == ""
    assert [versions.oldest_driver(cuda) for cuda in ("13.2", "12.4", "11.8", "", "99.0")] == [580, 525, 450, 0, 0]
