"""What came of the faults: kept in results.json, shown as a table in README.md. python -m tests.faults.results"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.same_code import source_digest
from tests.faults.catalogue import FAULTS
from tests.hosts.lab import PROJECT
from tests.hosts.requirements import program

FILE = Path(__file__).with_name("results.json")
PAGE = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results: written by make test-faults -->\n", "<!-- end of results -->\n"


@dataclass(frozen=True)
class Result:
    """One test of a fault."""

    date: str
    commit: str
    digest: str
    """Of the sources: a later commit with the same sources need not be tested again."""
    seconds: float
    """Of the whole test, from the submission of its job."""
    resumed: float
    """From the fault to the first new step of a training; 0 where that was not measured."""
    outcome: str
    """`passed`, or the first line of the failure."""


def read() -> dict[str, Result]:
    """Test -> its last result."""
    if not FILE.exists():
        return {}
    return {name: Result(**one) for name, one in json.loads(FILE.read_text()).items()}


def add(name: str, result: Result) -> None:
    """Keep a result, and write the table anew."""
    known = read() | {name: result}
    FILE.write_text(json.dumps({name: asdict(known[name]) for name in sorted(known)}, indent=1) + "\n")
    write_page()


def sources() -> str:
    return source_digest(PROJECT)


def commit() -> str:
    """The commit, with `-dirty` if sources differ from it."""
    git = [program("git"), "-C", str(PROJECT)]
    name = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True).stdout
    kept = [":!tests/faults/README.md", ":!tests/faults/results.json"]
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", ".", *kept], capture_output=True, text=True, check=True
    )
    return name.strip() + ("-dirty" if changed.stdout else "")


def write_page() -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + table() + END + after)


def table() -> str:
    known, lines = (
        read(),
        [
            "| fault | outcome | seconds | resumed after | its control | date | commit |",
            "|---|---|---|---|---|---|---|",
        ],
    )
    for fault in FAULTS:
        result, control = known.get(fault.name), known.get(f"{fault.name} (control)")
        if fault.no_control:
            shown = f"none: {fault.no_control}"
        else:
            shown = (
                "not run" if control is None else "fails as it must" if control.outcome == "passed" else control.outcome
            )
        if result is None:
            lines.append(f"| {fault.name} | not run | | | {shown} | | |")
            continue
        resumed = f"{result.resumed:.0f} s" if result.resumed else ""
        row = [fault.name, result.outcome, f"{result.seconds:.0f}", resumed, shown, result.date, result.commit]
        lines.append("| " + " | ".join(one.replace("|", "/") for one in row) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_page()
