"""Everything that can happen to a cluster, on separate hosts: `make test-faults`; see README.md beside this file."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.faults.catalogue import FAULTS, Fault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(bench: Bench, fault: Fault) -> None:
    fault.run(bench)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.fails], ids=lambda fault: fault.name)
def test_control(bench: Bench, fault: Fault) -> None:
    """The same test fails if the repair is switched off: it would notice if the repair did not work."""
    with pytest.raises(AssertionError, match=fault.fails):
        fault.run_control(bench)
