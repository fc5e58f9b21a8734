from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "ray_cluster.yaml"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_matches_the_schema_of_the_installed_ray(cluster: dict[str, Any]) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_every_node_runs_the_pinned_ray(cluster: dict[str, Any]) -> None:
    version = pinned("ray")
    docker = [cluster["docker"], *(kind.get("docker", {}) for kind in cluster["available_node_types"].values())]
    images = [value for part in docker for name, value in part.items() if name.endswith("image")]
    assert len(images) == 3
    assert {image.rpartition(":")[2].partition("-")[0] for image in images} == {version}
    installs = [command for command in cluster["setup_commands"] if "pip install" in command]
    assert len(installs) == 1
    assert f"=={version}'" in installs[0] and "--constraint ~/wsss/constraints.txt" in installs[0]


@pytest.mark.parametrize("node", ["head", "worker"])
def test_token_reaches_every_node_and_is_required(cluster: dict[str, Any], node: str) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [command for command in cluster[f"{node}_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 1
    assert starts[0].index("export RAY_AUTH_MODE=token;") < starts[0].index("ray start")


def test_dashboard_listens_on_the_head_only(cluster: dict[str, Any]) -> None:
    start = cluster["head_start_ray_commands"][-1]
    assert re.findall(r"--dashboard-host[= ](\S+)", start) == ["127.0.0.1"]


def test_cluster_shrinks_and_is_bounded(cluster: dict[str, Any]) -> None:
    workers = [kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
    assert {"CPU", "GPU"} == {resource for kind in workers for resource in kind["resources"]}
    assert all(kind["min_workers"] == 0 for kind in workers)
    assert cluster["max_workers"] >= sum(kind["max_workers"] for kind in workers)
    assert cluster["idle_timeout_minutes"] > 5, "CPU workers must not be removed during a short pause"


def test_holds_no_secret_and_runs_no_pipe() -> None:
    text = FILE.read_text()
    for pattern in (
        r"AKIA[0-9A-Z]{16}",
        r"(?i)secret",
        r"(?i)password",
        r"pipe:",
        r"\b[0-9a-f]{40,}\b",
        r"/home/\w+/\.aws",
    ):
        assert not re.search(pattern, text), pattern
