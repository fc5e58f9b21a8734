"""A queue of events on disk: each event is stored in a file until it has been delivered."""

from __future__ import annotations

import json
import os
import re
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
    """The receiver will never accept this event; the message says why."""


class Outbox:
    """A folder of JSON files, sorted by age. Several processes may share it; only one of them sends at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, event: Mapping[str, Any]) -> None:
        """Store an event until it is delivered, even if this process dies.

        It comes after every event that is waiting now, also after those of a host whose clock is ahead.
        """
        waiting = self.waiting()
        newest = int(found.group()) if waiting and (found := re.match(r"\d+", waiting[-1].name)) else 0
        name = f"{max(time.time_ns(), newest + 1):020d}-{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        write_bytes(self.folder / name, json.dumps(event).encode())

    def waiting(self) -> list[Path]:
        """Events that are not delivered yet, oldest first."""
        return sorted(path for path in self.folder.glob("*.json") if not path.name.startswith("."))

    def deliver(self, send: Callable[[Event], None]) -> tuple[int, list[str]]:
        """Send all waiting events, oldest first; returns how many were delivered, and why others were rejected.

        An event that `send` rejects is moved to `rejected/`, so that it does not block later events. Any other error of
        `send` is raised, and that event and all later ones stay in the queue. A process killed after sending but before
        removing the file sends the event twice: `send` must recognise duplicates.
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
        """Trials of one sweep share the folder. If two of them sent the same event, MLflow would have two runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield
