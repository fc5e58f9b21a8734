"""What this process is working on, so that a failure can name it, even if the process is killed.

Workers note the shard, the sample or the training step that they begin. A runtime may have the notes kept in a file as
well: the file outlives the process, and is written in place, which costs microseconds.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

FILE_BYTES = 2048
_LONGEST = 400
_ATTACHED = "work"
_now: dict[str, str] = {}
_file: int | None = None


def note(**work: str) -> None:
    """Remember for every name (`shard`, `sample`, `step`, `rank`) what is being worked on; "" forgets it."""
    for name, text in work.items():
        if text:
            _now[name] = text
        else:
            _now.pop(name, None)
    if _file is not None:
        with suppress(OSError):  # a full disk must not stop the work that is only noted here
            os.pwrite(_file, _packed(), 0)


def noted() -> dict[str, str]:
    """What is noted now."""
    return dict(_now)


def keep_notes_in(descriptor: int | None) -> None:
    """From now on write notes to this open file as well; None ends that, and forgets them."""
    global _file
    _file = descriptor
    if descriptor is None:
        _now.clear()
    note()


def name_work(error: BaseException, **work: str) -> None:
    """Attach to an exception what it is about, where `note` does not tell: names as there. The first to say stands."""
    told = error.__dict__.setdefault(_ATTACHED, {})
    for name, text in work.items():
        if text and name not in told:
            told[name] = text
            error.add_note(f"{name}: {text}")  # what travels as text, as from a loader's process, says it as well


def named_work(error: BaseException) -> dict[str, str]:
    """What was attached to an exception, or to those that led to it."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        found = {**cause.__dict__.get(_ATTACHED, {}), **found}
        cause = cause.__cause__ or cause.__context__
    return found


def unpack(data: bytes) -> dict[str, str]:
    """The notes in the bytes of such a file; none where it is damaged."""
    try:
        notes = json.loads(data.rstrip(b"\0 ") or b"{}")
    except ValueError:
        return {}
    return {str(name): str(text) for name, text in notes.items()} if isinstance(notes, dict) else {}


def _packed() -> bytes:
    short = {name: text[:_LONGEST] for name, text in _now.items()}
    data = json.dumps(short, ensure_ascii=True).encode()
    return (data if len(data) <= FILE_BYTES else b"{}").ljust(FILE_BYTES)
