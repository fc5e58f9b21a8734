"""Checks of a cluster file for AWS: machine image, roles, security group, metadata service, shared file system."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.check.cluster_file import ClusterFile
from cluster.check.findings import Finding

_LOOKUP = "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
_EFS = re.compile(r"\bfs-[0-9a-f]+\.efs\.([a-z0-9-]+)\.amazonaws\.com")
_MOUNT = re.compile(r"\bmount\b[^;|&]*\bnfs4?\b")

_SHAPES = {
    "IamInstanceProfile": "a table with Name or Arn",
    "MetadataOptions": "a table such as {HttpTokens: required}",
    "SecurityGroupIds": "a list of ids",
    "BlockDeviceMappings": "a list of devices, each with Ebs: {VolumeSize: GIGABYTES}, a whole number",
}
"""Settings of EC2 that Ray's schema does not describe -> what they must be."""


def check(file: ClusterFile) -> Iterator[Finding]:
    """Nothing for another provider."""
    if file.provider != "aws":
        return
    for name, kind in file.node_types.items():
        yield from _node_type(file, name, kind)
    yield from _security_groups(file)
    yield from _file_system(file)


def _node_type(file: ClusterFile, name: str, kind: Mapping[str, Any]) -> Iterator[Finding]:
    node, keys = kind.get("node_config") or {}, ("available_node_types", name, "node_config")
    if wrong := [(setting, what) for setting, what in _SHAPES.items() if not _has_shape(setting, node.get(setting))]:
        for setting, what in wrong:
            yield Finding(file.where(*keys, setting), f"is not {what}; write it as ray_cluster.yaml does")
        return  # the checks below rely on these shapes
    image = str(node.get("ImageId", ""))
    if image.lower() in ("", "latest_dlami"):
        yield Finding(
            file.where(*keys, "ImageId"),
            "is missing: Ray would take an image of 2023 (Ubuntu 18.04), whose driver is too old for CUDA 13. "
            f"Use ImageId: {_LOOKUP}",
        )
    elif not image.startswith(("ami-", "resolve:ssm:")):
        yield Finding(file.where(*keys, "ImageId"), f"{image!r} is no image; allowed are ami-… and resolve:ssm:/…")
    if not node.get("InstanceType"):
        yield Finding(file.where(*keys, "InstanceType"), "is missing; it is needed to launch an instance")
    if not node.get("IamInstanceProfile"):
        yield Finding(file.where(*keys, "IamInstanceProfile"), _no_profile(head=name == file.config["head_node_type"]))
    if (node.get("MetadataOptions") or {}).get("HttpTokens") != "required":
        yield Finding(
            file.where(*keys, "MetadataOptions"),
            "HttpTokens is not required: any request that a program on the node can be made to send reads the node's "
            "credentials. Use MetadataOptions: {HttpTokens: required, HttpEndpoint: enabled}",
        )
    for device in node.get("BlockDeviceMappings") or []:
        if (device.get("Ebs") or {}).get("VolumeSize", 0) < 60 and file.docker:
            yield Finding(
                file.where(*keys, "BlockDeviceMappings"),
                "VolumeSize is below 60 GB; the machine image, the container and its packages need about 50",
            )


def _has_shape(setting: str, value: Any) -> bool:
    """Whether a setting of `_SHAPES` has its shape; True if it is not given."""
    if value is None:
        return True
    if setting == "IamInstanceProfile":
        return isinstance(value, dict) and any(isinstance(value.get(name), str) for name in ("Name", "Arn"))
    if setting == "MetadataOptions":
        return isinstance(value, dict)
    if setting == "SecurityGroupIds":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, list) and all(isinstance(device, dict) and _has_size(device) for device in value)


def _has_size(device: dict[str, Any]) -> bool:
    ebs = device.get("Ebs", {})
    return isinstance(ebs, dict) and type(ebs.get("VolumeSize", 0)) is int


def _no_profile(*, head: bool) -> str:
    if head:
        return (
            "is missing: Ray would give the head full access to EC2 and S3 of the account, and that role cannot give "
            "the workers theirs. Use IamInstanceProfile: {Name: wsss-head}; cluster/aws.md makes it"
        )
    return (
        "is missing: such workers have no credentials and cannot read s3://. "
        "Use IamInstanceProfile: {Name: wsss-worker}; cluster/aws.md makes it"
    )


def _security_groups(file: ClusterFile) -> Iterator[Finding]:
    text = "Ray would make a group that opens port 22 to everybody (0.0.0.0/0)"
    rules = ((file.config["provider"].get("security_group")) or {}).get("IpPermissions") or []
    for number, rule in enumerate(rules):
        for cidr in (part.get("CidrIp") for part in rule.get("IpRanges") or []):
            if cidr in ("0.0.0.0/0", "::/0"):
                yield Finding(
                    file.where("provider", "security_group", "IpPermissions", number),
                    f"ports {rule.get('FromPort')} to {rule.get('ToPort')} are open to everybody; name your address",
                )
    for name, kind in file.node_types.items():
        node = kind.get("node_config") or {}
        if not node.get("SecurityGroupIds") and not node.get("NetworkInterfaces") and not node.get("LaunchTemplate"):
            yield Finding(
                file.where("available_node_types", name, "node_config", "SecurityGroupIds"),
                f"is missing: {text}. Name a group that admits your own address only; cluster/aws.md makes it",
            )


def _file_system(file: ClusterFile) -> Iterator[Finding]:
    region = str(file.config["provider"].get("region", ""))
    commands = file.commands("initialization_commands")
    for number, command in enumerate(commands):
        for found in _EFS.findall(command):
            if found != region:
                yield Finding(
                    file.where("initialization_commands", number),
                    f"the file system is in {found}, the nodes in {region} (provider.region); use one region",
                )
    if not any(_MOUNT.search(command) for command in commands):
        yield Finding(
            file.where("initialization_commands"),
            "no file system is mounted: all nodes must share the folder runtime.runs. Mount one as ray_cluster.yaml "
            "does",
            refused=False,
        )
