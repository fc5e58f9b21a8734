from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.bench import Bench
from tests.hosts.lab import Lab, lab
from tests.hosts.ray_cluster import RayCluster
from tests.hosts.requirements import NOT_RUN, missing
from tests.hosts.runs import Reference


@pytest.fixture(scope="session")
def hosts() -> Iterator[Lab]:
    """A head, two workers and a laptop."""
    if reason := missing():
        pytest.skip(f"{NOT_RUN}separate hosts: {reason}")
    with lab(workers=2) as made:
        yield made


@pytest.fixture(scope="session")
def bench(hosts: Lab) -> Iterator[Bench]:
    """A running cluster, and a reference that is computed while the cluster starts."""
    reference = Reference(hosts.folder / "reference")
    cluster = RayCluster(hosts)
    try:
        cluster.up()
        yield Bench(cluster, reference)
    finally:
        cluster.close()
        reference.end()
