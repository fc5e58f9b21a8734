"""`error.txt` in an instance's folder, with all details of its last failure, and the error line that refers to it."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shards.files import write_bytes
from shards.work_notes import unpack
from wsss.contract.failure import Failure, carried_failure, failure_of
from wsss.contract.stage import Instance

ERROR_FILE = "error.txt"
_ATTACHED = "wsss_error_line"


def keep_error(error: Exception, instance: Instance, *, restarts: Sequence[Failure]) -> None:
    """Write the file, and attach to the exception the line that `error_line` returns."""
    failure = failure_of(error)
    failure = replace(failure, instance=instance.name)
    _release(error)
    parts = [failure.report(), *(f"A worker that failed earlier and was replaced:\n{one.report()}" for one in restarts)]
    path = _written("\n".join(parts), instance)
    message, name = failure.line(), instance.name
    # Many messages already begin with the instance or its setting.
    line = message if message.startswith((f"{name}:", f"{name}.")) else f"{name}: {message}"
    error.__dict__[_ATTACHED] = f"{line}; see {path}" if path else line


def error_line(error: BaseException) -> str | None:
    """The one-line message of an instance's failure, ending in the path of its `error.txt`; None for other errors."""
    message = error.__dict__.get(_ATTACHED)
    return message if isinstance(message, str) else None


def debug_report(error: BaseException) -> str:
    """The traceback of the process that failed, and that of the driver."""
    carried = carried_failure(error)
    here = "".join(traceback.format_exception(error)).rstrip()
    return here if carried is None else f"{carried.report()}\nThe driver's own traceback:\n{here}"


def remove_error(instance: Instance) -> None:
    """Remove `error.txt` after the instance has finished."""
    (instance.path / ERROR_FILE).unlink(missing_ok=True)


def left_at_work(instance: Instance) -> list[str]:
    """Messages about processes that ended without an error message: a killed driver, a lost machine."""
    messages = []
    for path in sorted(instance.path.glob(".*.notes.tmp")):
        try:
            work = unpack(path.read_bytes())
        except OSError:
            continue
        place = Failure(message="").about(work).place()
        host, _, pid = path.name.removeprefix(".").removesuffix(".notes.tmp").rpartition("-")
        messages.append(f"process {pid} on {host} ended without an error message" + (f" at {place}" if place else ""))
    return messages


def _release(error: BaseException) -> None:
    """Clear the frames of the failed functions, so that files they opened are closed (in case too many were open)."""
    one: BaseException | None = error
    while one is not None:
        traceback.clear_frames(one.__traceback__)
        one = one.__cause__ or one.__context__


def _written(text: str, instance: Instance) -> Path | None:
    """Write the text and return its path: in the instance's folder or, if that fails (full disk), a temporary file."""
    elsewhere = Path(tempfile.gettempdir()) / f"wsss-{instance.name}-{instance.fingerprint[:12]}-{ERROR_FILE}"
    for path in (instance.path / ERROR_FILE, elsewhere):
        try:
            write_bytes(path, text.encode())
        except (OSError, RuntimeError):
            continue
        return path
    return None
