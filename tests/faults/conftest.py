from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from datetime import date
from pathlib import Path

import pytest

from tests.faults import results
from tests.faults.bench import Bench
from tests.faults.results import Result
from tests.hosts.conftest import bench, hosts

__all__ = ["bench", "hosts"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has passed with these sources."""
    known, now = results.read(), results.sources()
    done = [
        item
        for item in items
        if item.path.parent == Path(__file__).parent  # this hook sees the tests of all folders
        and (name := name_of(item)) in known
        and known[name].outcome == "passed"
        and known[name].digest == now
    ]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item not in done]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Nothing left to run is a success, if the faults were asked for."""
    asked = any("faults" in one for one in session.config.args)
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and asked and results.read():
        session.exitstatus = pytest.ExitCode.OK


def name_of(item: pytest.Item) -> str:
    """The name of a result: of the fault, or of its control."""
    fault = item.callspec.params["fault"].name if hasattr(item, "callspec") else item.name
    return f"{fault} (control)" if item.name.startswith("test_control") else str(fault)


@pytest.fixture(autouse=True)
def recorded(request: pytest.FixtureRequest, bench: Bench) -> Iterator[None]:
    """Keep the outcome of every test at once, so that `make test-faults` can be interrupted."""
    commit, digest, begun = results.commit(), results.sources(), time.monotonic()
    yield
    report = request.node.stash.get(REPORT, None)
    if report is None or report.skipped:
        return
    resumed = max((work.resumed for work in bench.work), default=0.0)
    message = report.longrepr.reprcrash.message if report.failed else ""
    outcome = "passed" if report.passed else f"FAILED: {message.splitlines()[0][:160]}"
    seconds = time.monotonic() - begun
    results.add(name_of(request.node), Result(str(date.today()), commit, digest, seconds, resumed, outcome))
    bench.stop_jobs()
    bench.mend(failed=report.failed)


REPORT = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[REPORT] = report
    return report
