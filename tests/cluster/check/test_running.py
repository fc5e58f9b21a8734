"""`wsss cluster check --running`: on a real session, and on answers of nodes that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.check import node, running
from cluster.check.findings import Finding
from cluster.check.running import check_running
from cluster.session.ray_session import connect

NODES = {
    name: {"NodeID": name, "NodeManagerHostname": name, "NodeManagerAddress": f"10.0.0.{number}", "Resources": {}}
    for number, name in enumerate(("a", "b", "c"), start=1)
}


@pytest.fixture
def session() -> Iterator[None]:
    connect(None)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_a_session_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "node_faults", lambda known, *, gpus: iter(()))  # this machine's own limits
    (found,) = check_running("auto", runs=tmp_path / "runs")
    assert found.refused and f"cannot write into {tmp_path}/runs (No such file or directory)" in found.text
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    assert check_running("auto", runs=tmp_path / "runs") == []
    assert list((tmp_path / "runs").iterdir()) == [], "the probe is removed"
    (found,) = check_running("auto", runs=Path("/proc/nothing"))
    assert found.refused and "cannot write into /proc/nothing" in found.text


Answer = Mapping[str, Any]


def versions(**changed: str) -> dict[str, Any]:
    return {"host": "x", "versions": {"python": "3.11.9", "torch": "2.15.0", "wsss": "0.1.0", **changed}}


def test_differing_versions_name_both_sides() -> None:
    answers: dict[str, Answer] = {"a (10.0.0.1)": versions(), "b (10.0.0.2)": versions(torch="2.14.0", wsss="")}
    found = {finding.where: finding.text for finding in running._differences(answers, here=versions())}
    assert set(found) == {"torch", "wsss"}
    assert "\n2.14.0: b (10.0.0.2)\n2.15.0: this process on x, a (10.0.0.1)" in found["torch"]
    assert "not installed: b (10.0.0.2)" in found["wsss"]
    assert list(running._differences({"a": versions()}, here=versions())) == []


class Disks:
    """Stands for `_ask`: the question is answered on the disk of each node."""

    def __init__(self, disks: Mapping[str, Path], silent: Sequence[str] = ()) -> None:
        self.disks, self.silent = disks, silent

    def __call__(
        self, nodes: Sequence[str], question: Any, folder: str, *rest: Any
    ) -> tuple[dict[str, Any], list[str]]:
        asked = [name for name in nodes if name not in self.silent]
        answers = {name: question(str(self.disks[name] / folder.lstrip("/")), *rest) for name in asked}
        return answers, [name for name in nodes if name in self.silent]


def probed(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    for disk in disks.disks.values():
        (disk / "mnt" / "runs").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(running, "_ask", disks)
    return list(running._shared(list(NODES), NODES, Path("/mnt/runs")))


def test_a_shared_folder_is_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probed(Disks(dict.fromkeys(NODES, tmp_path)), monkeypatch) == []
    assert not list(tmp_path.rglob(".probe-*"))


def test_a_node_with_a_folder_of_its_own_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = {"a": tmp_path / "nfs", "b": tmp_path / "own", "c": tmp_path / "nfs"}
    (found,) = probed(Disks(disks), monkeypatch)
    assert found.where == "b (10.0.0.2)"
    assert (
        "does not share /mnt/runs with a (10.0.0.1) (the folder that another node has made is not there)" in found.text
    )


def test_a_node_that_sees_files_late_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its view of the folder lacks what the others wrote."""
    reading = running._read_probe
    monkeypatch.setattr(running, "_read_probe", lambda folder: [name for name in reading(folder) if name == "a"])
    found = probed(Disks(dict.fromkeys(NODES, tmp_path)), monkeypatch)
    assert len(found) == 3 and all("b (10.0.0.2), c (10.0.0.3)" in finding.text for finding in found)
    assert "actimeo" in found[0].text


def test_a_silent_node_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = probed(Disks(dict.fromkeys(NODES, tmp_path), silent=["c"]), monkeypatch)
    assert found.where == "c (10.0.0.3)" and "does not run a task within 120 s" in found.text


def test_a_gpu_that_the_node_does_not_have() -> None:
    known = {"host": "b", "versions": {}, "open_files": 65536, "cuda": "13.2", "drivers": []}
    (found,) = node.node_faults(known, gpus=2.0)
    assert "is to offer 2 GPUs, but nvidia-smi finds none" in found.text
