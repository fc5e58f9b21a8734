"""A small disk of its own, for tests that fill one. Mounting takes root: elsewhere these tests are skipped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        """Change it while it is in use: `size=20m`, `ro`, `rw`."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True, capture_output=True)

    def fill(self, *, leave: int = 0) -> None:
        """Write a file that takes all room but `leave` bytes."""
        status = os.statvfs(self.path)
        (self.path / "filler").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - leave)))

    def empty(self) -> None:
        """Give the room of that file back."""
        (self.path / "filler").unlink()


@contextmanager
def small_disk(path: Path, *, size: str) -> Iterator[SmallDisk]:
    """Mount one, and take it away."""
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True)
    if made.returncode:
        pytest.skip(f"NOT RUN: a small disk cannot be mounted here ({made.stderr.decode().strip()})")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
