"""The least that a cluster file needs before a command acts on its machines."""

from __future__ import annotations

from pathlib import Path

from cluster.check.cluster_file import ClusterFile, read_cluster_file
from cluster.check.settings import placeholders, schema_faults


def usable_cluster_file(path: Path) -> ClusterFile:
    """Read a cluster file. Raises ValueError if it cannot be read, if Ray does not accept it, and for a placeholder."""
    file = read_cluster_file(path)
    if faults := [*schema_faults(file)] or [*placeholders(file)]:
        raise ValueError(
            f"{path}: {faults[0].where}: {faults[0].text} (`wsss cluster check {path}` names everything that is wrong)"
        )
    return file
