"""cluster/kubernetes/rayjob.yaml against KubeRay's own schema of a RayJob, which refuses unknown keys here."""

from __future__ import annotations

import copy
import gzip
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from wsss.arguments import parser
from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.recipe_files import RECIPES, find_file

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "kubernetes" / "rayjob.yaml"
SCHEMA = Path(__file__).with_name("data") / "kuberay_rayjob_v1.json.gz"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = strict(json.loads(gzip.decompress(SCHEMA.read_bytes())))
    return loaded


def strict(node: Any) -> Any:
    """Kubernetes drops keys that the schema does not name; here they are faults."""
    if isinstance(node, list):
        return [strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    made = {
        key: {name: strict(part) for name, part in value.items()} if key == "properties" else strict(value)
        for key, value in node.items()
    }
    is_open = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if "properties" in node and not is_open:
        made["additionalProperties"] = False
    if node.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(FILE.read_text()))


@pytest.fixture
def job(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == "RayJob"]
    del found["metadata"]
    return found


def test_the_manifest_has_the_form_of_a_rayjob(job: dict[str, Any], schema: dict[str, Any]) -> None:
    closed = copy.deepcopy(schema)
    closed["properties"].pop("metadata", None)
    jsonschema.validate(job, closed)
    assert job["apiVersion"] == "ray.io/v1"


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec.update(entrypoints="wsss"),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
        lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="tokens"),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(envs=[]),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    ],
)
def test_a_fault_is_found(edit: Any, job: dict[str, Any], schema: dict[str, Any]) -> None:
    edit(job["spec"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, schema)


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_every_pod_has_the_image_the_shared_folder_and_no_root(
    job: dict[str, Any], documents: list[dict[str, Any]]
) -> None:
    (claim,) = [document for document in documents if document["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    runs = re.search(r"runtime\.runs=(\S+)", job["spec"]["entrypoint"])
    assert runs
    for group in groups(job):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["image"] == "REGISTRY/wsss:0.1.0"
        claims = {
            v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        }
        assert set(claims.values()) == {claim["metadata"]["name"]}
        paths = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in claims]
        assert any(runs[1].startswith(f"{path}/") for path in paths)


def test_versions_token_and_ports_are_those_of_the_other_files(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()
    assert cluster["authOptions"] == {"mode": "token"}
    aws = (ROOT / "ray_cluster.yaml").read_text()
    for group in groups(job):
        for name in ("object-manager-port", "node-manager-port", "min-worker-port", "max-worker-port"):
            assert f"--{name}={group['rayStartParams'][name]}" in aws
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_command_is_understood(job: dict[str, Any]) -> None:
    words = shlex.split(job["spec"]["entrypoint"])
    options = parser().parse_args(words[1:])
    assert words[0] == "wsss" and options.on == "auto"
    load_recipe(find_file(options.recipe, shipped=RECIPES), options.overrides)
