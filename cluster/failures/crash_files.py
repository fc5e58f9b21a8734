"""Files from which a worker's death can be explained: notes on its work, and Python's report of a crash.

While it works on an instance, a process keeps two files open in the instance's folder, hidden and named by host and
process. The first contains notes on its current work (`shards.work_notes`). Python's fault handler writes the stack of
every thread into the second at a segmentation fault or the like, or when work on one shard takes too long. A process
that exits normally removes both; `shards.files.remove_leftovers` removes those of other processes.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shards.files import remove_leftovers
from shards.work_notes import FILE_BYTES, keep_notes_in, name_work, noted, unpack

_CRASHES = {
    "Segmentation fault": "segmentation fault (SIGSEGV)",
    "Aborted": "abort (SIGABRT)",
    "Bus error": "bus error (SIGBUS)",
    "Floating-point exception": "floating-point exception (SIGFPE)",
    "Illegal instruction": "illegal instruction (SIGILL)",
}
"""Python's name for a fatal signal -> the name in our messages."""
_STDERR = 2
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


@dataclass(frozen=True)
class CrashReport:
    """The crash files of a process that ended."""

    work: dict[str, str]
    """Its last notes: shard, sample, step."""
    stacks: str
    """The stacks of its threads; empty if nothing was reported."""

    def signal_name(self) -> str:
        """The fatal signal named in the report, or ""."""
        found = re.search(r"Fatal Python error: ([A-Za-z -]+)", self.stacks)
        return _CRASHES.get(found.group(1).strip(), found.group(1).strip()) if found else ""


@contextmanager
def crash_files(folder: Path, *, own_process: bool, seconds: float = 0.0) -> Iterator[None]:
    """Inside the block, keep this process's crash files in `folder`. If they cannot be created, work continues without.

    `own_process`: this process does only this work, so that its crashes are reported in `folder`; otherwise they are
    reported on stderr. `seconds`: also report the stacks if the block is still running after this time; 0 for never.
    """
    opened: list[int] = []
    host, pid = socket.gethostname(), os.getpid()
    paths = _paths(folder, host, pid)
    try:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            opened += [os.open(path, _OPEN_FLAGS, 0o666) for path in (paths if own_process else paths[:1])]
            os.pwrite(opened[0], bytes(FILE_BYTES), 0)  # reserves its space before the disk can fill up
        if opened:
            keep_notes_in(opened[0])
        if len(opened) == len(paths):
            faulthandler.enable(opened[1], all_threads=True)
            if seconds:
                faulthandler.dump_traceback_later(seconds, file=opened[1])
        yield
    except Exception as error:
        name_work(error, **noted())  # the notes are cleared below
        raise
    finally:
        if len(opened) == len(paths):
            faulthandler.cancel_dump_traceback_later()
            faulthandler.enable(_STDERR)
        keep_notes_in(None)
        for descriptor in opened:
            os.close(descriptor)
        remove_crash_files(folder, host=host, pid=pid)


def read_crash(folder: Path, *, host: str, pid: int) -> CrashReport:
    """The crash files of a process that has ended; empty if there are none. Its unfinished files are removed."""
    notes, stacks = _paths(folder, host, pid)
    found = CrashReport({}, "")
    with suppress(OSError):
        found = CrashReport(unpack(notes.read_bytes()), stacks.read_text(errors="replace"))
    remove_crash_files(folder, host=host, pid=pid)
    with suppress(OSError):
        remove_leftovers(folder, process=f"{host}-{pid}")
    return found


def remove_crash_files(folder: Path, *, host: str, pid: int) -> None:
    """Remove a process's crash files from the folder."""
    for path in _paths(folder, host, pid):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def exit_cause(code: int, *, crash: CrashReport, out_of_memory: bool) -> str:
    """A process's exit status, as `multiprocessing` reports it, in words."""
    if code >= 0:
        return f"exit code {code}"
    if code == -signal.SIGKILL:
        return KILLED_FOR_MEMORY if out_of_memory else "killed by SIGKILL"
    return crash.signal_name() or f"killed by {signal.Signals(-code).name}"


KILLED = "killed, probably by SIGKILL"
"""Cause for a process whose exit status is unknown and that left no crash report."""
KILLED_FOR_MEMORY = "out of memory: killed by the kernel (SIGKILL)"


def kernel_kills() -> int:
    """How many processes the kernel of this machine has killed for lack of memory since boot; 0 if unknown."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def _paths(folder: Path, host: str, pid: int) -> tuple[Path, Path]:
    return folder / f".{host}-{pid}.notes.tmp", folder / f".{host}-{pid}.stacks.tmp"
