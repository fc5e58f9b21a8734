"""Deterministic tar files in webdataset's format: the same names and bytes always give the same file.

Headers contain no time and no user. They are built here because `tarfile` would take longer than all other work on a
small image; the bytes are the same as `tarfile` writes in its default format.
Source: POSIX.1-2001, pax interchange format (ustar header block).
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from typing import BinaryIO

_BLOCK, _RECORD, _LONGEST_NAME, _SIZE_LIMIT = 512, 10_240, 100, 8**11
_OWNER = "wsss"
_BEFORE_SIZE = b"0000444\0" + b"0000000\0" * 2  # mode, user, group
_BEFORE_SUM = b"00000000000\0"  # time
_AFTER_SUM = b"".join((b"0", bytes(100), b"ustar\x0000", *[_OWNER.encode().ljust(32, b"\0")] * 2, bytes(16 + 167)))
_CHECKED = sum(_BEFORE_SIZE) + sum(_BEFORE_SUM) + sum(_AFTER_SUM) + 8 * ord(" ")


class TarStream:
    """Writes members sequentially and hashes the bytes as they are written, so the file need not be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def add(self, stem: str, members: Mapping[str, bytes]) -> tuple[int, str]:
        """Write members `stem`.EXTENSION, sorted by extension. Returns their size with padding, and their SHA-256."""
        parts: list[bytes] = []
        for extension in sorted(members):
            data = members[extension]
            parts += (_header(f"{stem}.{extension}", len(data)), data, bytes(-len(data) % _BLOCK))
        record = b"".join(parts)
        self._write(record)
        return len(record), hashlib.sha256(record).hexdigest()

    def finish(self) -> str:
        """Write the end of the file. Returns the SHA-256 of the whole file."""
        end = self.num_bytes + 2 * _BLOCK
        self._write(bytes(2 * _BLOCK + -end % _RECORD))
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)
        self.num_bytes += len(data)


def _header(name: str, size: int) -> bytes:
    if len(name) > _LONGEST_NAME or not name.isascii() or size >= _SIZE_LIMIT:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.uname, info.gname = size, 0o444, _OWNER, _OWNER
        return info.tobuf(tarfile.PAX_FORMAT)
    front = name.encode().ljust(_LONGEST_NAME, b"\0")
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_CHECKED + sum(front) + sum(digits))
    return b"".join((front, _BEFORE_SIZE, digits, _BEFORE_SUM, checksum, _AFTER_SUM))
