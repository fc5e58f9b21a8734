"""A cache folder of limited size for remote shards, shared by all processes of a machine.

    CACHE/<sha256>.tar     a complete shard, its content verified against the hash in its name
    CACHE/<sha256>.lock    held by the process that fetches the shard
    CACHE/lock             held while space is reserved

Files are named by their content, so recipes, runs and epochs share them, and every .tar file is complete. The least
recently used file is removed first. A process that has a file open can read it even after another process removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from shards import storage
from shards.storage import Retries, StorageError, without_secrets

_DAMAGED_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Fetched shards in `folder`, at most `max_bytes` in total."""

    folder: Path
    max_bytes: int
    retries: Retries = storage.RETRIES

    def open(self, address: str, *, num_bytes: int, sha256: str) -> BinaryIO | None:
        """Open the shard, fetching it if it is not cached; None if there is no room for it.

        Raises: StorageError if it is not available, or if its content does not match the hash after several attempts.
        """
        if num_bytes > self.max_bytes:
            return None
        path = self.folder / f"{sha256}.tar"
        found = _opened(path)
        if found is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _opened(path)  # another process may have fetched it meanwhile
            if found is not None:
                return found
            try:
                return self._fetch(address, path, num_bytes=num_bytes, sha256=sha256)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                return None

    def _fetch(self, address: str, path: Path, *, num_bytes: int, sha256: str) -> BinaryIO:
        """Fetch the file and return it still open: another process could remove it before it is opened again."""
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            for _ in range(_DAMAGED_ATTEMPTS):
                digest = hashlib.sha256()
                with ExitStack() as stack:
                    file = stack.enter_context(self._reserved(part, num_bytes))
                    for chunk in storage.chunks(address, length=num_bytes, retries=self.retries):
                        digest.update(chunk)
                        file.write(chunk)
                    if digest.hexdigest() == sha256:
                        file.flush()
                        os.fsync(file.fileno())  # its space was reserved: after a loss of power it could hold zeros
                        file.seek(0)
                        part.replace(path)
                        stack.pop_all()
                        return file
        finally:
            part.unlink(missing_ok=True)
        raise StorageError(
            f"{without_secrets(address)}: its content does not match its hash in the index "
            f"({_DAMAGED_ATTEMPTS} attempts); upload it again"
        )

    def _reserved(self, part: Path, num_bytes: int) -> BinaryIO:
        """Create a file of full size immediately, so that other processes count it when they look for room.

        Raises: OSError (ENOSPC) if files being fetched by other processes leave no room, or the disk is full.
        """
        with FileLock(self.folder / "lock"):
            part.unlink(missing_ok=True)
            self._make_room(num_bytes)
            file = part.open("w+b")
            try:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            except OSError:
                file.close()
                raise
            return file

    def _make_room(self, num_bytes: int) -> None:
        """Remove the least recently used files until `num_bytes` more fit."""
        files = list(self._files())
        used = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda file: file[1].st_mtime):
            if used + num_bytes <= self.max_bytes:
                return
            if path.suffix == ".tar" or not _is_alive(path):
                path.unlink(missing_ok=True)
                used -= stat.st_size
        if used + num_bytes > self.max_bytes:
            raise OSError(errno.ENOSPC, "no room besides the shards being fetched", str(self.folder))

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.iterdir():
            # A .part file may be renamed to .tar at any time.
            with suppress(FileNotFoundError):
                if path.suffix in (".tar", ".part"):
                    yield path, path.stat()


def _opened(path: Path) -> BinaryIO | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    os.utime(file.fileno())  # marks it as recently used
    return file


def _is_alive(part: Path) -> bool:
    """True if the process that writes a .part file still runs; a killed process leaves its file behind."""
    process = part.name.split(".")[1]
    return Path("/proc", process).exists()
