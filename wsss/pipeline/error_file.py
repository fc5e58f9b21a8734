"""`error.txt` in an instance's folder, with all that is known of its last failure; and the line that names it."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shards.at_work import unpack
from shards.files import write_bytes
from wsss.contract.failure import Failure, carried_failure, failure_of
from wsss.contract.stage import Instance

ERROR_FILE = "error.txt"
_ATTACHED = "told"


def keep_error(error: Exception, instance: Instance, *, restarts: Sequence[Failure]) -> None:
    """Write the file, and attach to the exception what `error_line` says of it."""
    failure = failure_of(error)
    failure = replace(failure, instance=instance.name)
    _release(error)
    parts = [failure.report(), *(f"A worker that was replaced before:\n{one.report()}" for one in restarts)]
    path = _written("\n".join(parts), instance)
    words, name = failure.line(), instance.name
    # Many messages begin with the instance or its setting.
    line = words if words.startswith((f"{name}:", f"{name}.")) else f"{name}: {words}"
    error.__dict__[_ATTACHED] = f"{line}; see {path}" if path else line


def error_line(error: BaseException) -> str | None:
    """The one line that tells of a failure of an instance, with the path of its file at the end; None of others."""
    told = error.__dict__.get(_ATTACHED)
    return told if isinstance(told, str) else None


def debug_report(error: BaseException) -> str:
    """The traceback where the failure happened, and the driver's own."""
    carried = carried_failure(error)
    here = "".join(traceback.format_exception(error)).rstrip()
    return here if carried is None else f"{carried.report()}\nThe driver's own traceback:\n{here}"


def remove_error(instance: Instance) -> None:
    """The instance is done: what failed before is of no more interest."""
    (instance.path / ERROR_FILE).unlink(missing_ok=True)


def left_at_work(instance: Instance) -> list[str]:
    """Words on what processes were working on that ended without a word: a killed driver, a lost machine."""
    words = []
    for path in sorted(instance.path.glob(".*.notes.tmp")):
        try:
            work = unpack(path.read_bytes())
        except OSError:
            continue
        place = Failure(message="").about(work).place()
        host, _, pid = path.name.removeprefix(".").removesuffix(".notes.tmp").rpartition("-")
        words.append(f"process {pid} on {host} ended without a word" + (f" at {place}" if place else ""))
    return words


def _release(error: BaseException) -> None:
    """Let go of what the failed functions held: open files, where too many of them were the failure."""
    one: BaseException | None = error
    while one is not None:
        traceback.clear_frames(one.__traceback__)
        one = one.__cause__ or one.__context__


def _written(text: str, instance: Instance) -> Path | None:
    """Where the text stands now: with the instance, or where that disk is full or the like, among temporary files."""
    elsewhere = Path(tempfile.gettempdir()) / f"wsss-{instance.name}-{instance.fingerprint[:12]}-{ERROR_FILE}"
    for path in (instance.path / ERROR_FILE, elsewhere):
        try:
            write_bytes(path, text.encode())
        except (OSError, RuntimeError):
            continue
        return path
    return None
