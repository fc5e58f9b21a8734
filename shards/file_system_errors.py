"""Errors of a file system that trying again does not change: full, over quota, read-only, too many open files."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

_NO_SPACE = "no space is left on its disk; free some, or move the folder of runs to a larger disk"
_REASONS = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: "the user's disk quota is used up; free some space, or have the quota raised",
    errno.EROFS: "its file system is read-only; mount it for writing, or name another folder of runs",
    errno.EMFILE: "this process has too many files open (limit {open_files}); raise the limit with `ulimit -n`",
    errno.ENFILE: "the whole system has too many files open; end other programs, or raise fs.file-max",
    errno.EFBIG: "it would be larger than a file may be (limit {file_size}); raise the limit with `ulimit -f`",
}
RESUMES = "the same command resumes from what is finished"
_PROBE_BYTES = 65_536


class FileSystemError(RuntimeError):
    """A file cannot be written or read, and could not be if it were tried again; the message names it and what to do.

    No OSError: where those of one file are recorded and passed over, this one must not be.
    """


def lasting_error(
    error: OSError, path: Path | str, *, what: str = "", verb: Literal["write", "read"] = "write"
) -> FileSystemError | None:
    """The error to raise where `path` was being written or read; None where another attempt may succeed.

    `what`: what the file is, in words.
    """
    reason = _REASONS.get(error.errno or 0)
    if reason is None:
        return None
    reason = reason.format(open_files=_limit(resource.RLIMIT_NOFILE), file_size=_limit(resource.RLIMIT_FSIZE))
    described = f"{path} ({what})" if what else str(path)
    return FileSystemError(f"cannot {verb} {described}: {reason}; {RESUMES}")


@contextmanager
def writing(path: Path, *, what: str = "") -> Iterator[None]:
    """Turn what a file system says inside the block into a `FileSystemError` that names `path`."""
    try:
        yield
    except OSError as error:
        if (told := lasting_error(error, path, what=what)) is None:
            raise
        raise told from error


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """As `writing`, where `path` is read: a process without a free file descriptor has met no damaged file."""
    try:
        yield
    except OSError as error:
        if (told := lasting_error(error, path, verb="read")) is None:
            raise
        raise told from error


def why_not_writable(folder: Path, *, what: str = "") -> FileSystemError | None:
    """Why a library of ours could not write files into `folder`, found by trying; None where it can be written to.

    torch reports a full disk as a RuntimeError without a reason. The trial file is as long as the longest one there,
    with a hole in front: a limit of a file's size is met as well.
    """
    trial = folder / f".trial.{os.uname().nodename}-{os.getpid()}.tmp"
    try:
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        with trial.open("wb") as file:
            file.seek(max(sizes, default=0))
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return lasting_error(error, folder, what=what)
    finally:
        trial.unlink(missing_ok=True)
    return None


def _limit(kind: int) -> str:
    soft, _ = resource.getrlimit(kind)
    return "none" if soft == resource.RLIM_INFINITY else str(soft)
