"""What is known of a failure: where it happened, at work on what, and why. Plain text, so that it travels anywhere."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from shards.at_work import named_work, noted


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure, of a worker, a training rank or the driver. Empty texts are not known."""

    message: str
    """What went wrong, as `ValueError: ...`; or how the process ended."""
    who: str = ""
    """`actor 3`, `rank 1`; empty for the driver's own process."""
    instance: str = ""
    shard: str = ""
    sample: str = ""
    """The key being worked on, or several of them."""
    step: str = ""
    """Of a training."""
    host: str = ""
    pid: int = 0
    cause: str = "exception"
    """How the process ended: `out of memory`, `segmentation fault (SIGSEGV)`, `killed by SIGKILL`, `exit code 3`, or
    `exception` where it did not."""
    traceback: str = ""
    final: bool = True
    """False where another attempt may go well: what the death of another process or a lost connection looks like."""

    def about(self, work: Mapping[str, str]) -> Failure:
        """With the shard, sample and step of a process's notes, where none are known."""
        shard, sample, step = (getattr(self, n) or work.get(n, "") for n in ("shard", "sample", "step"))
        return replace(self, shard=shard, sample=sample, step=step)

    def place(self) -> str:
        """What was being worked on, and by whom, in words."""
        parts = {"shard": self.shard, "sample": self.sample, "step": self.step}
        words = [self.who, *(f"{name} {text}" for name, text in parts.items() if text)]
        return ", ".join(word for word in words if word)

    def line(self) -> str:
        """One line: what was being worked on, and what went wrong."""
        words = " ".join(self.message.split())
        return f"{place}: {words}" if (place := self.place()) else words

    def report(self) -> str:
        """All that is known, line by line, for a file."""
        facts = {
            "instance": self.instance,
            "worker": self.who,
            "shard": self.shard,
            "sample": self.sample,
            "step": self.step,
            "host": self.host,
            "process": str(self.pid or ""),
            "cause": self.cause,
        }
        lines = [f"{name:<9} {text}" for name, text in facts.items() if text]
        return "\n".join([self.message, "", *lines, "", self.traceback.rstrip(), ""])


OnRestart = Callable[[Failure], None]
"""Called at once with the failure of every worker that was replaced."""


def ignore_restart(failure: Failure) -> None:
    """An `OnRestart` that says nothing."""


class WorkFailedError(RuntimeError):
    """A worker failed; carries what is known of it from one process to another."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.line()


def failure_of(error: BaseException, *, who: str = "", final: bool = True) -> Failure:
    """What is known of an exception in the process where it was raised, with what this process has noted."""
    if (carried := carried_failure(error)) is not None:
        # What failed in a process of this one's: who it works for, and at which step, is known here.
        return replace(carried.about(named_work(error)).about(noted()), who=carried.who or who)
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    failure = Failure(
        message=_words(error),
        who=who,
        host=socket.gethostname(),
        pid=os.getpid(),
        cause="out of memory" if out_of_memory else "exception",
        traceback="".join(traceback.format_exception(error)),
        final=final,
    )
    return failure.about(named_work(error)).about(noted())


def carried_failure(error: BaseException) -> Failure | None:
    """The failure that an exception brings from another process, if it does."""
    failure = getattr(error, "failure", None)
    return failure if isinstance(failure, Failure) else None


def _words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
