from __future__ import annotations

import resource
import time
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


STARTED = time.monotonic()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Processor time beside the time by the clock, which is longer on a machine that is shared."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if seconds := round(used.ru_utime + used.ru_stime):
        elapsed = round(time.monotonic() - STARTED)
        terminalreporter.write_line(f"separate hosts: {elapsed} s, {seconds} s of processor time")
