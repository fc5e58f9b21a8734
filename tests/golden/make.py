"""Adds golden entries, or compares two packages on this machine.

python -m tests.golden.make --package FOLDER [--only NAME...]     adds the entries that are not there yet
python -m tests.golden.make --package FOLDER --against OLDER      adds nothing; exit status 1 where they differ
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.golden.comparison import between_packages, summary
from tests.golden.entries import GOLDEN, ChangedEntryError, Golden, entry_of, environment_id
from tests.golden.packages import Run, given_settings, run_package


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    renamed = dict(pair.split("=") for pair in options.renamed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.against is None:
            run = run_package(options.package, folder, names=options.only, renamed=renamed)
            return add_entries(run, package=options.package, only=options.only)
        after = run_package(options.package, folder / "after", names=options.only)
        before = run_package(options.against, folder / "before", names=options.only, renamed=renamed)
    differences = {
        name: between_packages(before.cases[name], case) for name, case in after.cases.items() if name in before.cases
    }
    print(summary(differences) or f"{len(differences)} cases, all equal")
    return 1 if any(differences.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.golden.make", description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, required=True, help="folder that holds wsss, cluster and shards")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases; what they read is run too")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another package to compare with")
    parser.add_argument(
        "--renamed",
        nargs="+",
        default=[],
        metavar="NEW=OLD",
        help="names of settings and inputs in cases.toml that the older package calls otherwise",
    )
    return parser


def add_entries(run: Run, *, package: Path, only: Sequence[str]) -> int:
    """Append what is new to golden.json; entries that are there are left as they are, and named."""
    golden, settings, made_at = Golden.read(), given_settings(), commit_of(package)
    golden.environments.setdefault(environment_id(run.versions), dict(run.versions))
    added, kept = 0, []
    for name, case in run.cases.items():
        if only and name not in only:
            continue
        entry = entry_of(case, name=name, run=run, made_at=made_at, settings=settings[name])
        try:
            golden.add(entry)
            added += 1
        except ChangedEntryError as error:
            kept.append(str(error))
    GOLDEN.write_text(golden.to_text())
    print("\n".join([*kept, f"{added} entries added, {len(kept)} refused, {len(golden.entries)} in all"]))
    return 1 if kept and only else 0


def commit_of(package: Path) -> str:
    """The commit that a package stands at, `-dirty` appended where it is changed."""
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
