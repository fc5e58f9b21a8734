"""The check of a cluster file, without a cluster: everything that `ray up` would accept and that fails later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.check import aws, mounts, own_machines, settings, start_commands
from cluster.check.cluster_file import ClusterFile, read_cluster_file
from cluster.check.findings import Finding

_CHECKS: tuple[Callable[[ClusterFile], Iterator[Finding]], ...] = (
    settings.check,
    aws.check,
    own_machines.check,
    mounts.check,
    start_commands.check,
)


def check_file(path: Path) -> list[Finding]:
    """All faults and remarks of a cluster file, to be used from the folder in which `ray up` will be called.

    Raises ValueError if the file cannot be read.
    """
    file = read_cluster_file(path)
    if faults := list(settings.schema_faults(file)):
        return faults  # the other checks rely on the types that the schema demands
    return list(dict.fromkeys(finding for check in _CHECKS for finding in check(file)))
