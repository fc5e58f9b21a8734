"""The cluster files as text: schema, pinned versions, token, ports, no secrets. test_launching.py runs Ray on them."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = {"aws": ROOT / "ray_cluster.yaml", "onprem": ROOT / "cluster" / "onprem.yaml"}
AWS = FILES["aws"]
PAGE = (ROOT / "cluster" / "README.md").read_text()


@pytest.fixture(scope="module", params=FILES)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILES[request.param].read_text())
    return loaded


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(AWS.read_text())
    return loaded


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def start(cluster: dict[str, Any], node: str) -> dict[str, str]:
    """Option -> value of the node's `ray start`."""
    (command,) = [command for command in cluster[f"{node}_start_ray_commands"] if "ray start" in command]
    words = shlex.split(command.partition("ray start")[2].partition("&&")[0])
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def test_matches_the_schema_of_the_installed_ray(cluster: dict[str, Any]) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_every_node_runs_the_pinned_ray(cluster: dict[str, Any], aws: dict[str, Any]) -> None:
    version = pinned("ray")
    assert aws["docker"]["image"] == f"rayproject/ray:{version}-py311-cpu"
    installs = [command for command in cluster["setup_commands"] if "--editable" in command]
    assert len(installs) == 1
    assert f"=={version}'" in installs[0] and "--constraint ~/wsss/constraints.txt" in installs[0]


def test_one_line_selects_another_image(aws: dict[str, Any]) -> None:
    """Then all nodes use it: no node type names an image of its own."""
    assert AWS.read_text().count("rayproject/") == 1
    assert all("image" not in json.dumps(kind.get("docker", {})) for kind in aws["available_node_types"].values())


def test_the_token_reaches_every_node_in_a_folder(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"] == {"~/.ray": "~/.ray", "~/wsss": "."}
    assert "chmod -R go= ~/.ray" in cluster["setup_commands"]


def test_dashboard_listens_on_the_head_only(cluster: dict[str, Any]) -> None:
    assert start(cluster, "head")["--dashboard-host"] == "127.0.0.1"


@pytest.mark.parametrize("node", ["head", "worker"])
def test_the_ports_are_those_of_the_page(cluster: dict[str, Any], node: str) -> None:
    """Every port is fixed, the same in both files and on all nodes, and in the table of the page on firewalls."""
    ports = {name: value for name, value in start(cluster, node).items() if name.endswith("port")}
    both = {name: value for name, value in start(cluster, "head").items() if name in ports}
    assert ports == both and len(set(ports.values())) == len(ports)
    assert ports == {
        name: value for name, value in start(yaml.safe_load(AWS.read_text()), node).items() if name in ports
    }
    table = PAGE.partition("## Ports")[2].partition("\n## ")[0]
    for name, value in ports.items():
        assert re.search(rf"^\| [^|]*\b{value}\b[^|]*\|", table, re.MULTILINE), f"{name}={value}"


def test_cluster_shrinks_and_is_bounded(aws: dict[str, Any]) -> None:
    workers = [kind for name, kind in aws["available_node_types"].items() if name != aws["head_node_type"]]
    assert {"CPU", "GPU"} == {resource for kind in workers for resource in kind["resources"]}
    assert all(kind["min_workers"] == 0 for kind in workers)
    assert aws["max_workers"] >= sum(kind["max_workers"] for kind in workers)
    assert aws["idle_timeout_minutes"] > 5, "CPU workers must not be removed during a short pause"


def test_the_folder_of_runs_is_made_in_the_mounted_file_system_by_the_setup_alone(
    tmp_path: Path, aws: dict[str, Any]
) -> None:
    """The check of every node does not make it, so that a missing mount is noticed."""
    mounts, make = aws["initialization_commands"][-2:]
    assert "mountpoint -q /mnt/shared || sudo mount" in mounts and "/mnt/shared/runs" in make
    own = yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text())
    (command,) = own["head_setup_commands"]
    shared = tmp_path / "shared"
    words = ["sh", "-c", command.replace("/mnt/shared", str(shared))]
    assert subprocess.run(words, check=False, capture_output=True).returncode != 0 and not shared.exists()
    shared.mkdir()
    for _ in range(2):
        subprocess.run(words, check=True)
        assert (shared / "runs").is_dir()


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_holds_no_secret_and_runs_no_pipe(path: Path) -> None:
    text = path.read_text()
    for pattern in (
        r"AKIA[0-9A-Z]{16}",
        r"(?i)secret",
        r"(?i)password",
        r"pipe:",
        r"\b[0-9a-f]{40,}\b",
        r"/home/\w+/\.aws",
    ):
        assert not re.search(pattern, text), pattern
