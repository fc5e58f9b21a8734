"""The end of the cluster: the last file of `make test-cluster`, in the order of names."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.faults.bench import Bench
from tests.hosts.mlflow_from_outside import mlflow_tunnel

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(600)]


def test_the_cluster_ends(bench: Bench) -> None:
    with mlflow_tunnel(bench.cluster) as mlflow:
        known = len(mlflow.runs())
    printed = bench.cluster.down()
    assert "FAILED" not in printed, printed
    copy = bench.cluster.lab.shared / "mlflow" / "mlflow.db"
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone()[0] == known
    for host in (bench.cluster.head, *bench.hosts):
        assert not host.find("/raylet/raylet "), host.name
        assert not host.find("/gcs/gcs_server "), host.name
        assert not host.find("mlflow"), host.name
        assert not (host.home / ".ray" / "auth_token").exists(), host.name
