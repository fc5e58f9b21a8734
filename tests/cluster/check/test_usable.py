from __future__ import annotations

from pathlib import Path

import pytest

from cluster.check.usable import usable_cluster_file

ROOT = Path(__file__).parents[3]


def test_a_placeholder_or_what_ray_refuses_ends_a_command_before_it_acts(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"onprem\.yaml: line \d+: provider\.head_ip: HEAD_ADDRESS is a placeholder"
    ) as raised:
        usable_cluster_file(ROOT / "cluster" / "onprem.yaml")
    assert f"`wsss cluster check {ROOT}/cluster/onprem.yaml` names everything" in str(raised.value)
    path = tmp_path / "x.yaml"
    with pytest.raises(ValueError, match="the cluster file cannot be read"):
        usable_cluster_file(path)
    path.write_text("cluster_name: a\nprovider: {type: local}\nmax_worker: 3\n")
    with pytest.raises(ValueError, match="Ray does not accept it"):
        usable_cluster_file(path)
    path.write_text("cluster_name: a\nprovider: {type: local, head_ip: 10.0.0.1}\n")
    assert usable_cluster_file(path).provider == "local"
