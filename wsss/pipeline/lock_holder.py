"""Who holds the lock of an instance's folder: a file with a counter that grows while its process lives.

The lock itself is the operating system's (`flock`), which ends with its process. On some shared file systems it is
valid on one host only, or does not exist. There this file is the lock: a holder on another host is alive while its
counter grows, whatever the two hosts' clocks say.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wsss.contract.stopping import raise_if_stopped

HOLDER = ".lock-holder.json"
BEAT_SECONDS = 5.0
"""How often a holder raises its counter."""
MISSED_BEATS = 5
"""A holder on another host whose counter stands still for so many beats is dead; a network file system may show the
file with a delay."""
POLL_SECONDS = 0.2
UNKNOWN = "another process"
_LONGEST_COMMAND = 200
_UNREADABLE: dict[str, Any] = {"unreadable": True}


def describe(folder: Path) -> str:
    """The holder in words, or `UNKNOWN`."""
    try:
        holder = _read(folder) or {}
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder["since"])))
        running = f": {holder['command']}" if holder.get("command") else ""
        return f"process {holder['pid']} on {holder['host']}, since {since} by its clock{running}"
    except (ValueError, TypeError, KeyError, OverflowError):
        return UNKNOWN


def dead_holder(folder: Path, *, has_flock: bool) -> dict[str, Any] | None:
    """What the file has of a holder that is dead, `{}` if there is none; None if the holder is alive.

    It takes some beats to find out about one on another host. `has_flock`: the caller has the operating system's lock,
    so that no other process of this host can have it.
    """
    before = _read(folder)
    if before is None:
        return {}
    if before == _UNREADABLE:  # written by a machine that lost its power: nobody raises its counter
        return before if _stands_still(folder, before) else None
    if "beat" not in before:  # of an earlier version, which had only `flock`
        return before
    if before.get("host") == socket.gethostname():
        return None if not has_flock and _runs(before.get("pid")) else before
    return before if _stands_still(folder, before) else None


def _stands_still(folder: Path, before: dict[str, Any]) -> bool:
    """Whether the file stays as it is, or is gone, for as long as a holder may miss beats.

    Looks are counted, not only seconds: while the file system itself stands still, nobody can raise a counter.
    """
    end, looks = time.monotonic() + MISSED_BEATS * BEAT_SECONDS, 0
    while time.monotonic() < end or looks < MISSED_BEATS * BEAT_SECONDS / POLL_SECONDS / 2:
        raise_if_stopped()
        time.sleep(POLL_SECONDS)
        now = _read(folder)
        looks += 1
        if now is None:
            return True
        if now != before:
            return False
    return True


@contextmanager
def claimed(folder: Path, *, instead_of: dict[str, Any]) -> Iterator[bool]:
    """Write this process into the file, raise its counter during the block, and remove it afterwards.

    `instead_of`: the dead holder that it replaces. False if another process did so in the meantime. If the file cannot
    be written (a full disk), the lock of the operating system has to suffice.
    """
    command = shlex.join(sys.orig_argv)[:_LONGEST_COMMAND]
    own = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "command": command}
    own["claim"] = uuid.uuid4().hex
    if not _removed(folder, instead_of, own) or not _created(folder, own | {"beat": 0}):
        yield False
        return
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(folder, own, ended), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        ended.set()
        beating.join()
        if (_read(folder) or own).get("claim") == own["claim"]:
            with suppress(OSError):
                (folder / HOLDER).unlink(missing_ok=True)


def _removed(folder: Path, dead: dict[str, Any], own: dict[str, Any]) -> bool:
    """Remove the file of a dead holder. False if it has become another holder's, whose file stays."""
    if not dead:
        return True
    aside = folder / f"{HOLDER}.{own['claim']}"
    try:
        os.rename(folder / HOLDER, aside)
    except FileNotFoundError:
        return True  # another process removed it; only one of them can create the next
    except OSError:
        return True
    try:
        if _content(aside.read_bytes()) == dead:
            return True
        os.link(aside, folder / HOLDER)
    except (OSError, ValueError):
        pass
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return False


def _beat(folder: Path, own: dict[str, Any], ended: threading.Event) -> None:
    number = 0
    while not ended.wait(BEAT_SECONDS):
        found = _read(folder)
        if found is not None and found != _UNREADABLE and found.get("claim") != own["claim"]:
            return  # this process stood still so long that another one took over
        number += 1
        new = folder / f"{HOLDER}.{own['claim']}"
        with suppress(OSError):
            new.write_text(json.dumps(own | {"beat": number}))
            os.replace(new, folder / HOLDER)


def _created(folder: Path, content: dict[str, Any]) -> bool:
    """Create the file with its content, unless there is one: of several processes only one can."""
    new = folder / f"{HOLDER}.{content['claim']}"
    try:
        with new.open("w") as file:
            file.write(json.dumps(content))
            file.flush()
            os.fsync(file.fileno())  # after a loss of power an empty file would name no holder
        try:
            os.link(new, folder / HOLDER)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            os.replace(new, folder / HOLDER)  # a file system without links
    except OSError:
        return True
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
    return True


def _read(folder: Path) -> dict[str, Any] | None:
    """The content of the file; None if there is none, `_UNREADABLE` if it is no holder's."""
    try:
        return _content((folder / HOLDER).read_bytes())
    except OSError:
        return None


def _content(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return _UNREADABLE
    return found if isinstance(found, dict) else _UNREADABLE


def _runs(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        pass
    return True
