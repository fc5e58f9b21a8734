"""Atomic writes: a file is written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from shards.file_system_errors import writing


@contextmanager
def replacing(path: Path, *, what: str = "", needed: int | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path` for writing; it replaces `path` only if the block succeeds.

    `what`: description of the file, and `needed`: its bytes if known, for errors. Raises `FileSystemError` if the disk
    is full or similar.
    """
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        with writing(path, what=what, needed=needed):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        # Ignored if the folder could not be created or is read-only: the original error says more.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes, *, what: str = "") -> None:
    """Write a whole file atomically. `what`: description of the file, for errors."""
    with replacing(path, what=what, needed=len(data)) as file:
        file.write(data)


def remove_leftovers(folder: Path, *, process: str = "*") -> None:
    """Delete temporary files left behind by killed processes, or only by the one given as HOST-PID."""
    pattern = ".*.tmp" if process == "*" else f".*.{glob.escape(process)}.tmp"
    for leftover in folder.glob(pattern):
        leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
