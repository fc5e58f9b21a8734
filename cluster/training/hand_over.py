"""Hands a training over: at the next step all ranks save a checkpoint and end, because their time is short.

Asked for by a file in the instance's folder (the driver got SIGTERM, or a rank did) or by a notice that a rank itself
gets (its node will be taken away). The engine adds up the ranks' answers at every step, so that all ranks stop after
the same step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shards.file_system_errors import FileSystemError
from shards.files import write_bytes

_ASKED, _DONE = "hand-over.json", "handed-over.json"
LOOK_SECONDS = 0.5
"""How often rank 0 looks for the file."""

Notice = Callable[[], str]
"""Returns why this rank's process will end soon, "" if it is not known to."""


class HandedOverError(RuntimeError):
    """Raised on all ranks after the checkpoint is saved."""


@dataclass(frozen=True)
class HandedOver:
    """A training that was handed over."""

    step: int
    """The step of its checkpoint."""
    reason: str


def ask(folder: Path, reason: str) -> bool:
    """Ask the training in an instance's folder to hand over. False if the file cannot be written."""
    with suppress(OSError, FileSystemError):
        write_bytes(folder / _ASKED, json.dumps({"reason": reason}).encode())
        return True
    return False


def withdraw(folder: Path) -> None:
    """Remove what was asked and answered, before a training starts."""
    for name in (_ASKED, _DONE):
        (folder / name).unlink(missing_ok=True)


def handed_over(folder: Path) -> HandedOver | None:
    """How the training in a folder was handed over; None if it was not."""
    try:
        return HandedOver(**json.loads((folder / _DONE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class HandOver:
    """One rank's side."""

    def __init__(self, folder: Path, *, rank: int, notice: Notice | None = None) -> None:
        self._folder, self._rank, self._notice = folder, rank, notice
        self._reason = ""
        self._looked = 0.0

    def is_asked(self) -> bool:
        """True if this rank knows a reason to hand over; called at every step."""
        if not self._reason and self._notice is not None:
            self._reason = self._notice()
        now = time.monotonic()
        if not self._reason and self._rank == 0 and now - self._looked > LOOK_SECONDS:
            self._looked = now
            with suppress(OSError, ValueError):
                self._reason = json.loads((self._folder / _ASKED).read_bytes())["reason"]
        return bool(self._reason)

    def done(self, step: int) -> HandedOverError:
        """The error to raise, after the checkpoint of this step is saved."""
        reason = self._reason or "another rank's process will end soon"
        if self._rank == 0:
            write_bytes(self._folder / _DONE, json.dumps({"step": step, "reason": reason}).encode())
        return HandedOverError(f"handed over after step {step}: {reason}")
