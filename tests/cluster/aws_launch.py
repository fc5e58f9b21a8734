"""Run as a program, in a process of its own: ray_cluster.yaml as far as AWS's API goes, against moto. No socket opens.

Bootstraps (key pair, subnets) and launches an instance of every node type by Ray's own provider; prints what exists
afterwards as JSON. Ray's next step would be SSH to an address that moto makes up, so `ray up` itself is not called.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import boto3
import yaml
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider


def main(path: Path) -> None:
    with mock_aws():
        ec2, iam = boto3.client("ec2", region_name="us-west-2"), boto3.client("iam")
        for name in ("wsss-head", "wsss-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="wsss", Description="wsss", VpcId=vpc)["GroupId"]
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        text = path.read_text().replace("sg-00000000000000000", group)
        config = yaml.safe_load(text)
        asked = {kind["node_config"]["ImageId"] for kind in config["available_node_types"].values()}
        for kind in config["available_node_types"].values():
            kind["node_config"]["ImageId"] = image  # moto does not resolve a lookup
        resolved = _bootstrap_config(config, no_config_cache=True)
        provider = _get_node_provider(resolved["provider"], resolved["cluster_name"])
        for name, kind in resolved["available_node_types"].items():
            tags = {"ray-node-name": name, "ray-node-type": "worker", "ray-user-node-type": name}
            provider.create_node(copy.deepcopy(kind["node_config"]), tags, 1)
        print(
            json.dumps(
                {
                    "asked": sorted(asked),
                    "group": group,
                    "instances": instances(ec2),
                    "groups": groups(ec2),
                    "roles": [role["RoleName"] for role in iam.list_roles()["Roles"]],
                }
            )
        )


def instances(ec2: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            found[tags["ray-user-node-type"]] = {
                "type": instance["InstanceType"],
                "spot": instance.get("InstanceLifecycle") == "spot",
                "profile": instance.get("IamInstanceProfile", {}).get("Arn", ""),
                "groups": [group["GroupId"] for group in instance["SecurityGroups"]],
                "tokens": instance.get("MetadataOptions", {}).get("HttpTokens"),
                "cluster": tags["ray-cluster-name"],
            }
    return found


def groups(ec2: Any) -> dict[str, list[str]]:
    """Group -> the addresses that it admits."""
    return {
        group["GroupId"]: [part["CidrIp"] for rule in group["IpPermissions"] for part in rule.get("IpRanges", [])]
        for group in ec2.describe_security_groups()["SecurityGroups"]
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
