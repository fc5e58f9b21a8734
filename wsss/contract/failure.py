"""Details of a failure: where it happened, what was being worked on, and why. All fields are plain values, so that they
can be sent between processes."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from shards.work_notes import named_work, noted


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure of a worker, a training rank or the driver. Empty strings mean unknown."""

    message: str
    """The error, as `ValueError: ...`, or how the process ended."""
    who: str = ""
    """`actor 3`, `rank 1`; empty for the driver's own process."""
    instance: str = ""
    shard: str = ""
    sample: str = ""
    """The key being worked on, or several of them."""
    step: str = ""
    """The step of a training."""
    host: str = ""
    pid: int = 0
    cause: str = "exception"
    """How the process ended: `out of memory`, `segmentation fault (SIGSEGV)`, `killed by SIGKILL`, `exit code 3`, or
    `exception` if it did not end."""
    traceback: str = ""
    final: bool = True
    """False if a retry may succeed: errors that the death of another process or a lost connection can cause."""
    redone: str = ""
    """What is done again because of it."""
    awaited: str = ""
    """What is waited for because of it."""
    set_aside: str = ""
    """Key of the record that is left out because of it."""
    steps_redone: int = 0
    """Steps of a training that are done again."""

    def about(self, work: Mapping[str, str]) -> Failure:
        """A copy whose unknown shard, sample and step are filled in from a process's notes."""
        shard, sample, step = (getattr(self, n) or work.get(n, "") for n in ("shard", "sample", "step"))
        return replace(self, shard=shard, sample=sample, step=step)

    def place(self) -> str:
        """Which worker failed and what it was working on, in words."""
        parts = {"shard": self.shard, "sample": self.sample, "step": self.step}
        words = [self.who, *(f"{name} {text}" for name, text in parts.items() if text)]
        return ", ".join(word for word in words if word)

    def line(self) -> str:
        """One line: what was being worked on, and the error."""
        words = " ".join(self.message.split())
        return f"{place}: {words}" if (place := self.place()) else words

    def report(self) -> str:
        """All known details, one per line, to be written to a file."""
        details = {
            "instance": self.instance,
            "worker": self.who,
            "shard": self.shard,
            "sample": self.sample,
            "step": self.step,
            "host": self.host,
            "process": str(self.pid or ""),
            "cause": self.cause,
        }
        lines = [f"{name:<9} {text}" for name, text in details.items() if text]
        return "\n".join([self.message, "", *lines, "", self.traceback.rstrip(), ""])


OnRestart = Callable[[Failure], None]
"""Called with the failure of a worker as soon as the worker has been replaced."""


def ignore_restart(failure: Failure) -> None:
    """An `OnRestart` that does nothing."""


class WorkFailedError(RuntimeError):
    """A worker failed; carries the `Failure` between processes."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.line()


class OutOfGpuMemoryError(RuntimeError):
    """A single image or example does not fit into the GPU's memory; the message names the settings to change."""


class SmallerBatchError(OutOfGpuMemoryError):
    """A batch does not fit into the GPU's memory; begun again, the work takes smaller ones."""


def failure_of(error: BaseException, *, who: str = "", final: bool = True) -> Failure:
    """The `Failure` for an exception in the process where it was raised, completed from this process's notes."""
    if (carried := carried_failure(error)) is not None:
        # It failed in a subprocess of this process, which knows the worker's name and the step.
        return replace(carried.about(named_work(error)).about(noted()), who=carried.who or who)
    of_memory = isinstance(error, MemoryError | OutOfGpuMemoryError) or type(error).__name__ == "OutOfMemoryError"
    failure = Failure(
        message=_words(error),
        who=who,
        host=socket.gethostname(),
        pid=os.getpid(),
        cause="out of memory" if of_memory else "exception",
        traceback="".join(traceback.format_exception(error)),
        final=final,
    )
    return failure.about(named_work(error)).about(noted())


def carried_failure(error: BaseException) -> Failure | None:
    """The `Failure` that an exception carries from another process, or None."""
    failure = getattr(error, "failure", None)
    return failure if isinstance(failure, Failure) else None


def _words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
