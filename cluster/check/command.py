"""`wsss cluster check`: which check is asked for, and its printed result."""

from __future__ import annotations

from pathlib import Path

from cluster.check.findings import Finding, counted, shown
from cluster.session.address import check_address


def check(file: Path | None, *, running: str | None, here: bool, runs: Path | None) -> int:
    """Print what the check found; the status is 1 if the cluster must not be used like this.

    Exactly one of a file, `running` (an address) and `here` is to be given. Raises ValueError otherwise, and if the
    file cannot be read or no cluster answers.
    """
    if (file is not None) + (running is not None) + here != 1:
        raise ValueError("cluster check: give one of FILE, --running and --here; ray_cluster.yaml is a file")
    if file is not None and runs is not None:
        raise ValueError("cluster check FILE: --runs belongs to --running and --here; a file names its folder itself")
    findings = _findings(file, running=running, runs=runs)
    print(shown(findings), end="")
    subject = str(file) if file is not None else f"the cluster at {running}" if running is not None else "this machine"
    print(f"{subject}: {counted(findings)}")
    return 1 if any(finding.refused for finding in findings) else 0


def _findings(file: Path | None, *, running: str | None, runs: Path | None) -> list[Finding]:
    if file is not None:
        from cluster.check.file_check import check_file

        return check_file(file)
    if running is not None:
        check_address(running, option="--running")
        from cluster.check.running import check_running

        return check_running(running, runs=runs)
    from cluster.check.node import check_here

    return check_here(runs=runs)
