"""The tiers of tests, and what could not run.

`make check`        everything but the marks `ray`, `slow`, `extended`, `gpu`, `hosts` and `faults`: three minutes
`make test`         everything but the marks `extended`, `gpu`, `hosts` and `faults`: fifteen minutes, what CI runs
`make test-cluster` the mark `hosts`: a Ray cluster on separate hosts, fifteen minutes
`make test-faults`  the mark `faults`: everything that can happen to such a cluster; see tests/faults/README.md
`make test-all`     everything but `faults`; what this machine cannot run is named at the end as NOT RUN
"""

from __future__ import annotations

from collections import Counter

import pytest

# Their assertions are explained as those of tests are.
pytest.register_assert_rewrite("tests.faults", "tests.hosts")

NOT_RUN = "NOT RUN: "
"""How a reason for skipping begins where a machine lacks what a test needs."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the parts that could not run: a green line alone would hide them."""
    parts: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            path, _, reason = report.longrepr
            reason = reason.removeprefix("Skipped: ")
            if reason.startswith(NOT_RUN):
                parts[report.nodeid.partition("::")[0] or path, reason.removeprefix(NOT_RUN)] += 1
    for (path, reason), number in sorted(parts.items()):
        terminalreporter.write_line(f"NOT RUN: {path} ({number} tests): {reason}")
