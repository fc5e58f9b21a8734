"""What this process is working on, so that an error report can name it, even if the process is killed.

Workers note the shard, the sample or the training step that they start. A runtime can also keep the notes in a file,
which survives the process. The file is overwritten in place, which takes microseconds.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FILE_BYTES = 2048
_LONGEST = 400
_ATTACHED = "work"
_now: dict[str, str] = {}
_file: int | None = None
_apart = threading.local()
"""`notes`: those of a thread that keeps its own."""


def note(**work: str) -> None:
    """Record what is being worked on under each name (`shard`, `sample`, `step`, `rank`); "" removes the name.

    `ended`: why a process ends itself.
    """
    own: dict[str, str] | None = getattr(_apart, "notes", None)
    notes = _now if own is None else own
    for name, text in work.items():
        if text:
            notes[name] = text
        else:
            notes.pop(name, None)
    if _file is not None and own is None:
        with suppress(OSError):  # failing to write a note, as on a full disk, must not stop the work itself
            os.pwrite(_file, _packed(), 0)


@contextmanager
def notes_apart() -> Iterator[None]:
    """In this block this thread's notes are its own: it works ahead of the others, or after them.

    An exception carries them. A process that dies leaves the notes of the thread that computes: its shard is right, and
    which record it was is found by processing them one at a time.
    """
    _apart.notes = {}
    try:
        yield
    except Exception as error:
        name_work(error, **_apart.notes)
        raise
    finally:
        _apart.notes = None


def noted() -> dict[str, str]:
    """The current notes."""
    return dict(_now)


def forget_notes() -> None:
    """Remove all notes, before work of which they say nothing."""
    _now.clear()
    note()


def keep_notes_in(descriptor: int | None) -> None:
    """Also write all further notes to this open file; None stops writing to a file and clears the notes."""
    global _file
    _file = descriptor
    if descriptor is None:
        _now.clear()
    note()


def name_work(error: BaseException, **work: str) -> None:
    """Attach to an exception what was being worked on, if `note` has not recorded it.

    The names are those of `note`. A name that is already attached keeps its value.
    """
    attached = error.__dict__.setdefault(_ATTACHED, {})
    for name, text in work.items():
        if text and name not in attached:
            attached[name] = text
            error.add_note(f"{name}: {text}")  # kept even if the error is passed on as text, as by loader processes


def named_work(error: BaseException) -> dict[str, str]:
    """What was attached to an exception and to the exceptions that caused it."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        found = {**cause.__dict__.get(_ATTACHED, {}), **found}
        cause = cause.__cause__ or cause.__context__
    return found


def unpack(data: bytes) -> dict[str, str]:
    """The notes in the bytes of a file of notes; empty if the file is damaged."""
    try:
        notes = json.loads(data.rstrip(b"\0 ") or b"{}")
    except ValueError:
        return {}
    return {str(name): str(text) for name, text in notes.items()} if isinstance(notes, dict) else {}


def _packed() -> bytes:
    short = {name: text[:_LONGEST] for name, text in _now.items()}
    data = json.dumps(short, ensure_ascii=True).encode()
    return (data if len(data) <= FILE_BYTES else b"{}").ljust(FILE_BYTES)
