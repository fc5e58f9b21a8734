"""What a worker leaves for whoever has to explain its death: its notes, and Python's report of a crash.

While it works on an instance, a process keeps two files open in the instance's folder, hidden and named by host and
process. What is being worked on is written into the first (`shards.at_work`); Python's fault handler writes into the
second where every thread stood at a segmentation fault or the like, or when work on one shard took too long. A process
that ends well removes both; `shards.files.remove_leftovers` removes what is left.
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

from shards.at_work import FILE_BYTES, keep_notes_in, name_work, noted, unpack
from shards.files import remove_leftovers

_CRASHES = {
    "Segmentation fault": "segmentation fault (SIGSEGV)",
    "Aborted": "abort (SIGABRT)",
    "Bus error": "bus error (SIGBUS)",
    "Floating-point exception": "floating-point exception (SIGFPE)",
    "Illegal instruction": "illegal instruction (SIGILL)",
}
"""Python's words for a fatal signal -> ours."""
_STDERR = 2
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


@dataclass(frozen=True)
class CrashReport:
    """What a process left behind."""

    work: dict[str, str]
    """Its last notes: shard, sample, step."""
    stacks: str
    """Where its threads stood; empty where nothing was reported."""

    def signal_name(self) -> str:
        """The fatal signal that the report is of, or ""."""
        found = re.search(r"Fatal Python error: ([A-Za-z -]+)", self.stacks)
        return _CRASHES.get(found.group(1).strip(), found.group(1).strip()) if found else ""


@contextmanager
def crash_files(folder: Path, *, own_process: bool, seconds: float = 0.0) -> Iterator[None]:
    """Inside the block, keep this process's files in `folder`; where they cannot be made, a death is explained worse.

    `own_process`: this process does nothing but this work, so that its crashes are reported in `folder`; elsewhere
    they are reported on the screen. `seconds`: report also where it stands after so many, if it is still inside; 0
    does not.
    """
    opened: list[int] = []
    host, pid = socket.gethostname(), os.getpid()
    paths = _paths(folder, host, pid)
    try:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            opened += [os.open(path, _OPEN_FLAGS, 0o666) for path in (paths if own_process else paths[:1])]
            os.pwrite(opened[0], bytes(FILE_BYTES), 0)  # its room is taken before the disk can be full
        if opened:
            keep_notes_in(opened[0])
        if len(opened) == len(paths):
            faulthandler.enable(opened[1], all_threads=True)
            if seconds:
                faulthandler.dump_traceback_later(seconds, file=opened[1])
        yield
    except Exception as error:
        name_work(error, **noted())  # they are forgotten below
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
    """What a process that is gone left in the folder; empty where it left nothing. Its unfinished files are removed."""
    notes, stacks = _paths(folder, host, pid)
    found = CrashReport({}, "")
    with suppress(OSError):
        found = CrashReport(unpack(notes.read_bytes()), stacks.read_text(errors="replace"))
    remove_crash_files(folder, host=host, pid=pid)
    with suppress(OSError):
        remove_leftovers(folder, process=f"{host}-{pid}")
    return found


def find_process(folder: Path, **work: str) -> tuple[str, int]:
    """Host and id of the process that noted this work last; an empty host where none did."""
    newest = ("", 0, 0.0)
    for path in folder.glob(".*.notes.tmp"):
        with suppress(OSError, ValueError):
            host, _, pid = path.name.removeprefix(".").removesuffix(".notes.tmp").rpartition("-")
            when, notes = path.stat().st_mtime, unpack(path.read_bytes())
            if all(notes.get(name) == text for name, text in work.items()) and when > newest[2]:
                newest = (host, int(pid), when)
    return newest[:2]


def remove_crash_files(folder: Path, *, host: str, pid: int) -> None:
    """Remove what a process left in the folder."""
    for path in _paths(folder, host, pid):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def exit_cause(code: int, *, crash: CrashReport, out_of_memory: bool) -> str:
    """A process's exit status, as `multiprocessing` gives it, in words."""
    if code >= 0:
        return f"exit code {code}"
    if code == -signal.SIGKILL:
        return KILLED_FOR_MEMORY if out_of_memory else "killed by SIGKILL"
    return crash.signal_name() or f"killed by {signal.Signals(-code).name}"


KILLED = "killed, by SIGKILL as far as can be told"
"""The end of a process of which nobody was told the exit status, and that left no report."""
KILLED_FOR_MEMORY = "out of memory: the kernel ended it (SIGKILL)"


def kernel_kills() -> int:
    """How many processes this machine's kernel has ended for lack of memory, since it started; 0 where not known."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def _paths(folder: Path, host: str, pid: int) -> tuple[Path, Path]:
    return folder / f".{host}-{pid}.notes.tmp", folder / f".{host}-{pid}.stacks.tmp"
