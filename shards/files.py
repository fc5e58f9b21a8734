"""Files that are never half there: written under a temporary name, flushed to disk, then renamed."""

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
def replacing(path: Path, *, what: str = "") -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` for writing; it takes its place only if the block succeeds.

    `what`: what is written, in words. Raises `FileSystemError` where the disk is full or the like.
    """
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        with writing(path, what=what):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        # Not where the folder could not be made, or is read-only: the error that led here says more.
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
    """Write a whole file atomically. `what`: what it is, in words, for errors."""
    with replacing(path, what=what) as file:
        file.write(data)


def remove_leftovers(folder: Path, *, process: str = "*") -> None:
    """Delete temporary files that killed processes left behind, or one of them, given as HOST-PID."""
    pattern = ".*.tmp" if process == "*" else f".*.{glob.escape(process)}.tmp"
    for leftover in folder.glob(pattern):
        leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
