"""A bounded folder of shards that were fetched from afar, shared by all processes of a machine.

    CACHE/<sha256>.tar     a whole shard, its bytes checked against the hash that its name is
    CACHE/<sha256>.lock    held by the process that fetches it
    CACHE/lock             held while room is made

A name says what is inside, so that recipes, runs and epochs share what they have in common, and a file that stands here
is whole. What was used longest ago goes first. A reader that has a file open keeps it, whoever removes its name.
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
    """Fetched shards in `folder`, `max_bytes` of them at most."""

    folder: Path
    max_bytes: int
    retries: Retries = storage.RETRIES

    def open(self, address: str, *, num_bytes: int, sha256: str) -> BinaryIO | None:
        """The shard, fetched where it is not here yet; None where there is no room for it.

        Raises: StorageError where it cannot be had, or its bytes are not those of the hash, also when fetched anew.
        """
        if num_bytes > self.max_bytes:
            return None
        path = self.folder / f"{sha256}.tar"
        found = _opened(path)
        if found is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _opened(path)  # another process was faster
            if found is not None:
                return found
            try:
                return self._fetch(address, path, num_bytes=num_bytes, sha256=sha256)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                return None

    def _fetch(self, address: str, path: Path, *, num_bytes: int, sha256: str) -> BinaryIO:
        """The file as it was written, still open: others may need its room before it could be opened again."""
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
                        file.seek(0)
                        part.replace(path)
                        stack.pop_all()
                        return file
        finally:
            part.unlink(missing_ok=True)
        raise StorageError(
            f"{without_secrets(address)}: its bytes are not those that were written ({_DAMAGED_ATTEMPTS} attempts); "
            "upload it again"
        )

    def _reserved(self, part: Path, num_bytes: int) -> BinaryIO:
        """A new file that takes its room at once, so that others who look for room see it.

        Raises: OSError (ENOSPC) where others' parts leave no room, or the disk does not.
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
        """Remove what was used longest ago until `num_bytes` more fit."""
        files = list(self._files())
        used = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda file: file[1].st_mtime):
            if used + num_bytes <= self.max_bytes:
                return
            if path.suffix == ".tar" or not _is_alive(path):
                path.unlink(missing_ok=True)
                used -= stat.st_size
        if used + num_bytes > self.max_bytes:
            raise OSError(errno.ENOSPC, "no room beside what others fetch", str(self.folder))

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.iterdir():
            # A part may become a whole shard at any time.
            with suppress(FileNotFoundError):
                if path.suffix in (".tar", ".part"):
                    yield path, path.stat()


def _opened(path: Path) -> BinaryIO | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    os.utime(file.fileno())  # used just now
    return file


def _is_alive(part: Path) -> bool:
    """Whether the process that writes a part lives: one that was killed leaves it behind."""
    process = part.name.split(".")[1]
    return Path("/proc", process).exists()
