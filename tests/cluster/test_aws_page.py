"""cluster/aws.md: every command exists in AWS's API with these options, and its files are valid."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "cluster" / "aws.md").read_text()
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("aws ")]
OF_THE_COMMAND_LINE = {"query", "output", "region"}
SHORTHAND = {"authorize-security-group-ingress": {"protocol", "port", "cidr", "source-group"}}
"""Options that the command line adds to an operation."""


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command: str) -> None:
    _, service, operation, *words = shlex.split(command)
    model = botocore.session.get_session().get_service_model(service)
    names = {xform_name(name).replace("_", "-"): name for name in model.operation_names}
    assert operation in names, f"{service} has no {operation}"
    shape = model.operation_model(names[operation]).input_shape
    assert shape is not None
    members = {xform_name(name).replace("_", "-") for name in shape.members}
    given = {word.removeprefix("--") for word in words if word.startswith("--")}
    assert given <= members | OF_THE_COMMAND_LINE | SHORTHAND.get(operation, set())
    required = {xform_name(name).replace("_", "-") for name in shape.required_members}
    # The command line makes up a token that only guards against repetition.
    assert required <= given | {"creation-token"}
    for word in words:
        if word.startswith("file://"):
            assert (ROOT / word.removeprefix("file://")).is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "cluster" / "aws").glob("*.json")), ids=lambda path: path.name)
def test_policies_name_services_that_exist(path: Path) -> None:
    policy = json.loads(path.read_text())
    assert policy["Version"] == "2012-10-17"
    session = botocore.session.get_session()
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in actions:
            service, name = action.split(":")
            known = session.get_service_model(service).operation_names
            # S3 and IAM have actions that are no operation of the API.
            if service not in ("s3", "iam"):
                pattern = re.compile(re.escape(name).replace(r"\*", ".*"))
                assert any(pattern.fullmatch(operation) for operation in known), action


def test_every_call_of_the_node_provider_is_allowed_to_the_head() -> None:
    """Ray's provider on the head starts, tags, lists and ends instances, and nothing else."""
    import ray.autoscaler._private.aws.node_provider as provider

    source = Path(provider.__file__).read_text()
    calls = set(
        re.findall(r"\b(create_instances|(?:create|delete|start|stop|terminate|describe)_(?:tags|instances))\b", source)
    )
    assert calls >= {"create_instances", "create_tags", "terminate_instances"}
    text = (ROOT / "cluster" / "aws" / "head_policy.json").read_text()
    for call in calls:
        action = "RunInstances" if call == "create_instances" else "".join(part.title() for part in call.split("_"))
        assert action in text or (action.startswith("Describe") and "ec2:Describe*" in text), action


def test_what_the_page_makes_is_what_the_file_names() -> None:
    file = (ROOT / "ray_cluster.yaml").read_text()
    for name in ("wsss-head", "wsss-worker"):
        assert f"--instance-profile-name {name}" in PAGE and f"Name: {name}" in file
    (lookup,) = set(re.findall(r"/aws/service/deeplearning\S+ami-id", PAGE))
    assert f"resolve:ssm:{lookup}" in file
