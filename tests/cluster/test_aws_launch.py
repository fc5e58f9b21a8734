"""ray_cluster.yaml against an emulator of AWS's API: what is launched, and what Ray makes by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-west-2",
        "HOME": str(tmp_path_factory.mktemp("home")),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }
    words = [sys.executable, "-m", "tests.cluster.aws_launch", str(ROOT / "ray_cluster.yaml")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_instance_has_its_role_group_and_imdsv2(launched: dict[str, Any]) -> None:
    instances = launched["instances"]
    assert {name: instance["profile"].rpartition("/")[2] for name, instance in instances.items()} == {
        "head": "wsss-head",
        "cpu_worker": "wsss-worker",
        "gpu_worker": "wsss-worker",
    }
    assert all(instance["groups"] == [launched["group"]] for instance in instances.values())
    assert all(instance["tokens"] == "required" for instance in instances.values())
    assert [instances[name]["spot"] for name in ("head", "cpu_worker", "gpu_worker")] == [False, True, True]


def test_ray_opens_no_port_and_makes_no_role(launched: dict[str, Any]) -> None:
    assert not [address for addresses in launched["groups"].values() for address in addresses]
    assert launched["roles"] == []


def test_the_image_is_looked_up(launched: dict[str, Any]) -> None:
    (image,) = launched["asked"]
    assert image.startswith("resolve:ssm:/aws/service/deeplearning/") and image.endswith("/latest/ami-id")


def test_instances_carry_the_tag_that_the_heads_policy_asks_for(launched: dict[str, Any]) -> None:
    policy = json.loads((ROOT / "cluster" / "aws" / "head_policy.json").read_text())
    (condition,) = [part["Condition"] for part in policy["Statement"] if "StringLike" in part.get("Condition", {})]
    assert condition["StringLike"] == {"aws:ResourceTag/ray-cluster-name": "wsss*"}
    assert all(instance["cluster"].startswith("wsss") for instance in launched["instances"].values())
