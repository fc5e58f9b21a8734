"""`make tables`, or `python -m tuning.tables`: write the tables of measured results into the pages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tuning.tables.declaration import TableError
from tuning.tables.write import ROOT, Places, changed_files, write


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Write the tables, or only compare them; returns 0, or 1 if that is impossible or, with --check, they differ."""
    parser = argparse.ArgumentParser(
        prog="python -m tuning.tables",
        description=__doc__.partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, help="folder of runs; results that it has replace the stored ones")
    parser.add_argument("--weights", type=Path, help="folder with the files of weights that declarations name")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    given = parser.parse_args(arguments)
    try:
        if given.runs is not None and not given.runs.is_dir():
            raise TableError(f"--runs {given.runs}: there is no such folder")
        texts = changed_files(Places(root=root), runs=given.runs, weights=given.weights)
    except TableError as error:
        print(f"tables: {error}", file=sys.stderr)
        return 1
    names = [path.relative_to(root).as_posix() for path in texts]
    if given.check:
        if names:
            print(f"tables: {', '.join(names)} would change; run `make tables`", file=sys.stderr)
        return 1 if names else 0
    write(texts)
    print(f"written: {', '.join(names)}" if names else "no table has changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
