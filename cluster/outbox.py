"""Events on their way out: each is a file before it is sent, and the file goes only once it has arrived."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from shards.files import write_bytes

Event = dict[str, Any]


class RejectedError(ValueError):
    """The receiver will never take this event; the message is its reason."""


class Outbox:
    """A folder of JSON files, oldest first by name. Several processes may share it: one of them sends at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, event: Mapping[str, Any]) -> None:
        """Keep an event until it is delivered; it survives the death of this process."""
        name = f"{time.time_ns():020d}-{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        write_bytes(self.folder / name, json.dumps(event).encode())

    def waiting(self) -> list[Path]:
        """Events that are not delivered yet, oldest first."""
        return sorted(path for path in self.folder.glob("*.json") if not path.name.startswith("."))

    def deliver(self, send: Callable[[Event], None]) -> tuple[int, list[str]]:
        """Send what waits, oldest first; returns how many arrived and why others were rejected.

        An event that `send` rejects moves to `rejected/`, so that it does not hold up those behind it. Any other
        error of `send` passes on to the caller, and that event and all behind it keep waiting. A process killed
        between the sending and the removal sends twice: `send` must recognise what it has already seen.
        """
        delivered, reasons = 0, []
        with self._locked():
            for path in self.waiting():
                try:
                    send(json.loads(path.read_bytes()))
                except RejectedError as error:
                    rejected = self.folder / "rejected"
                    rejected.mkdir(exist_ok=True)
                    path.rename(rejected / path.name)
                    reasons.append(str(error))
                else:
                    path.unlink()
                    delivered += 1
        return delivered, reasons

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Trials of one sweep share the folder; two of them sending one event would make two runs of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield
