"""File system errors for which a retry does not help: full disk, quota, read-only, permission, too many open files."""

from __future__ import annotations

import errno
import os
import pwd
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_REASONS = {
    errno.ENOSPC: "no space is left on its disk {disk}; free some space, or move the folder of runs to a larger disk",
    errno.EDQUOT: "the user's disk quota is used up on {disk}; free some space, or ask for a larger quota",
    errno.EROFS: "its file system is read-only; mount it for writing, or choose another folder of runs",
    errno.EMFILE: "this process has too many files open (limit {open_files}); raise the limit with `ulimit -n`",
    errno.ENFILE: "the whole system has too many files open; end other programs, or raise fs.file-max",
    errno.EFBIG: "it would be larger than a file may be (limit {file_size}); raise the limit with `ulimit -f`",
}
_WRITE_ONLY = {
    errno.EACCES: "user {user} has no permission for it; change its owner or mode, or choose another folder of runs",
    errno.EPERM: "the operation is not permitted to user {user}; change its owner, mode or attributes",
}
"""Also for writing; a file that may not be read is a matter of that file alone."""
_AWAY = "its file system does not answer; the file itself may be fine"
_READ_ONLY = dict.fromkeys(
    (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET), _AWAY
)
"""Also for reading: a shared file system that is away takes every file with it. To be tried again first."""
PASSING = frozenset({*_READ_ONLY, errno.EIO, errno.EAGAIN})
"""Errors of reading that another attempt may not meet."""
RESUMES = "the same command resumes from what is finished"


class FileSystemError(RuntimeError):
    """A file cannot be written or read, and a retry would fail too; the message names the file and what to do.

    Not an OSError: code that records an OSError of one file and skips that file must not skip this error.
    """


def lasting_error(
    error: OSError,
    path: Path | str,
    *,
    what: str = "",
    verb: Literal["write", "read"] = "write",
    needed: int | None = None,
) -> FileSystemError | None:
    """The error to raise if `path` was being written or read; None if another attempt may succeed.

    `what`: description of the file. `needed`: bytes that were to be written, if known.
    """
    reasons = _REASONS | (_WRITE_ONLY if verb == "write" else _READ_ONLY)
    reason = reasons.get(error.errno or 0)
    if reason is None:
        return None
    reason = reason.format(
        open_files=_limit(resource.RLIMIT_NOFILE),
        file_size=_limit(resource.RLIMIT_FSIZE),
        disk=disk_of(path).describe(needed=needed) if "{disk}" in reason else "",
        user=_user(),
    )
    described = f"{path} ({what})" if what else str(path)
    return FileSystemError(f"cannot {verb} {described}: {reason}; {RESUMES}")


@contextmanager
def writing(path: Path, *, what: str = "", needed: int | None = None) -> Iterator[None]:
    """Turn lasting file system errors inside the block into a `FileSystemError` that names `path`."""
    try:
        yield
    except OSError as error:
        if (lasting := lasting_error(error, path, what=what, needed=needed)) is None:
            raise
        raise lasting from error


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Like `writing`, for reading: running out of file descriptors does not mean that the file is damaged."""
    try:
        yield
    except OSError as error:
        if (lasting := lasting_error(error, path, verb="read")) is None:
            raise
        raise lasting from error


@dataclass(frozen=True)
class Disk:
    """A mounted file system."""

    mount: Path
    free: int
    """Bytes that this user may still write, as far as the file system says; a quota is not included."""

    def describe(self, *, needed: int | None = None) -> str:
        """The mount point with the free bytes and, if known, the bytes needed."""
        more = f", about {_amount(needed)} needed" if needed else ""
        return f"{self.mount} ({_amount(self.free)} free{more})"


def disk_of(path: Path | str) -> Disk:
    """The file system that holds a path, or would hold it."""
    existing = Path(path).absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    mount = existing
    while not mount.is_mount() and mount != mount.parent:
        mount = mount.parent
    try:
        status = os.statvfs(existing)
    except OSError:
        return Disk(mount, 0)
    return Disk(mount, status.f_bavail * status.f_frsize)


def _amount(num_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} bytes"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _limit(kind: int) -> str:
    soft, _ = resource.getrlimit(kind)
    return "none" if soft == resource.RLIM_INFINITY else str(soft)
