"""Names of files in what a run writes down: relative to a folder, so that a folder of runs may be moved or renamed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath


def relative_files(files: Mapping[str, str], *, folder: Path) -> dict[str, str]:
    """Name -> path as it is written down: relative to `folder` for files below it, else absolute."""
    base = folder.absolute()

    def relative(path: Path) -> str:
        return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)

    return {name: relative(Path(path).absolute()) for name, path in files.items()}


def found_files(files: Mapping[str, str], *, folder: Path) -> dict[str, str]:
    """Name -> absolute path of what `relative_files` wrote down, wherever `folder` is now.

    Earlier versions wrote absolute paths. If the folder was moved since, such a file is the one below `folder` that the
    longest possible end of its path names.
    """
    base = folder.absolute()
    return {name: str(_found(PurePath(path), base)) for name, path in files.items()}


def _found(path: PurePath, folder: Path) -> Path:
    written = folder / path  # an absolute path stays what it is
    if path.is_absolute() and not written.exists():
        for skipped in range(1, len(path.parts)):
            if (here := folder.joinpath(*path.parts[skipped:])).is_file():
                return here
    return written
