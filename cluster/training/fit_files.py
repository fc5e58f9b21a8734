"""Files through which a training's ranks report to their driver on any node: progress, restarts and outcome."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from shards.files import write_bytes
from wsss.contract.failure import Failure, WorkFailedError
from wsss.contract.kept_files import found_files, relative_files
from wsss.contract.repeated import repeated
from wsss.contract.runtime import Progress
from wsss.contract.stage import Outcome

PROGRESS = "progress.json"
OUTCOME = "outcome.json"
POLL_SECONDS = 0.5


def write_progress(folder: Path, *, step: int, num_steps: int, state: str) -> None:
    """Called by rank 0 at intervals. Atomic, but without a flush to disk, which would delay training.

    If it cannot be written the training continues; saving the next checkpoint reports the error.
    """
    temporary = folder / f".{PROGRESS}.tmp"
    with suppress(OSError):
        temporary.write_text(json.dumps({"step": step, "num_steps": num_steps, "state": state}))
        temporary.replace(folder / PROGRESS)


@contextmanager
def watch_progress(folder: Path, progress: Progress) -> Iterator[None]:
    """Report the progress that rank 0 writes, for as long as the block runs."""

    def report() -> None:
        try:
            seen = json.loads((folder / PROGRESS).read_bytes())
        except (OSError, ValueError):
            return
        progress(seen["step"], seen["num_steps"], seen["state"])

    try:
        with repeated(report, seconds=POLL_SECONDS):
            yield
    finally:
        (folder / PROGRESS).unlink(missing_ok=True)


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Called by rank 0 after the weights are written: the presence of this file means that the training is finished."""
    written = asdict(outcome) | {"artifacts": relative_files(outcome.artifacts, folder=folder)}
    write_bytes(folder / OUTCOME, json.dumps(written).encode(), what="the outcome of a training")


def read_outcome(folder: Path) -> Outcome:
    """The outcome of a finished training. Raises RuntimeError if it did not finish."""
    try:
        outcome = Outcome(**json.loads((folder / OUTCOME).read_bytes()))
        return replace(outcome, artifacts=found_files(outcome.artifacts, folder=folder), notes=tuple(outcome.notes))
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        raise RuntimeError(f"the training in {folder} ended without a result") from None


def has_outcome(folder: Path) -> bool:
    """True if a training has finished."""
    try:
        read_outcome(folder)
    except RuntimeError:
        return False
    return True


class RankError(WorkFailedError):
    """A training failed; the failure says which rank, at which step, and why."""

    def __str__(self) -> str:
        name = self.failure.instance
        return f"{name}: training failed: {self.failure.line()}" if name else self.failure.line()


def write_restart(folder: Path, failure: Failure, *, number: int, kind: str = "rank") -> None:
    """Write a file that reports to the driver why the training was restarted."""
    write_bytes(folder / f"restart-{number:03d}-{kind}.json", json.dumps(asdict(failure)).encode())
