"""Checks, before any work, that a result can be written to the place that the user named."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path


def check_output_file(path: Path, *, option: str, endings: Sequence[str]) -> None:
    """Raise ValueError if a file cannot be written at `path`, or if its name promises another format.

    `option`: what the user gave, such as `--output`; `endings`: those allowed, such as `.png`.
    """
    if path.suffix.lower() not in endings:
        raise ValueError(f"{option} {path}: name a file that ends in {' or '.join(endings)}, which is what is written")
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name a file, such as {path / f'result{endings[0]}'}")
    _check_folder(path.parent, given=f"{option} {path}")


def check_output_folder(path: Path, *, option: str) -> None:
    """Raise ValueError if a folder at `path` cannot be made or written to; `option` as above."""
    _check_folder(path, given=f"{option} {path}")


def _check_folder(folder: Path, *, given: str) -> None:
    """Try to write into the folder, or into the nearest one above it that exists. Nothing stays there."""
    above = folder.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise ValueError(f"{given}: {above} is a file, not a folder; name another place")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{given}: nothing can be written in {above} ({reason}); name another place") from None
