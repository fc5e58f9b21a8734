"""What the autoscaler can start, from the shipped cluster files. On a cluster: test_shared_folder.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.session import node_types
from cluster.session.node_types import on_head, types_of
from cluster.session.room import NodeType

ROOT = Path(__file__).parents[3]


def test_the_kinds_of_workers_of_a_cluster_file() -> None:
    found = types_of(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))
    assert found == [
        NodeType("cpu_worker", {"CPU": 16}, 6),
        NodeType("gpu_worker", {"CPU": 8, "GPU": 1}, 4),
    ], "the head is no worker"
    limited = {"max_workers": 2, "available_node_types": {"a": {"max_workers": 5}, "b": {"max_workers": 0}}}
    assert types_of(limited) == [NodeType("a", {}, 2)]


def test_the_file_on_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_types, "CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.delenv("KUBERAY_GEN_RAY_START_CMD", raising=False)
    assert on_head() is None
    (tmp_path / "config.yaml").write_text("max_workers: 3\n")
    assert on_head() == {"max_workers": 3}
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head")
    assert on_head() == "KUBERAY_GEN_RAY_START_CMD"
