"""What came of the faults: kept in results.json, shown as a table in README.md. python -m tests.faults.results"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.session.same_code import source_digest
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
    command = [*git, "status", "--porcelain", "--", ".", *kept]
    changed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return name.strip() + ("-dirty" if changed else "")


def write_page() -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + table() + END + after)


def table() -> str:
    known = read()
    heads = ("fault", "outcome", "seconds", "resumed after", "its control", "date", "commit")
    rows: list[tuple[str, ...]] = [heads, ("---",) * len(heads)]
    for fault in FAULTS:
        result, control = known.get(fault.name), known.get(f"{fault.name} (control)")
        checked = f"none: {fault.no_control}" if fault.no_control else _control(control)
        if result is None:
            rows.append((fault.name, "not run", "", "", checked, "", ""))
            continue
        resumed = f"{result.resumed:.0f} s" if result.resumed else ""
        seconds = f"{result.seconds:.0f}"
        rows.append((fault.name, result.outcome, seconds, resumed, checked, result.date, result.commit))
    return "".join("| " + " | ".join(one.replace("|", "/") for one in row) + " |\n" for row in rows)


def _control(result: Result | None) -> str:
    if result is None:
        return "not run"
    return "fails as it must" if result.outcome == "passed" else result.outcome


if __name__ == "__main__":
    write_page()
