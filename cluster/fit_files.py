"""Files through which a training's ranks speak to their driver, wherever they run: progress, errors and outcome."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from shards.files import write_bytes
from wsss.contract.runtime import Progress
from wsss.contract.stage import Outcome

PROGRESS = "progress.json"
OUTCOME = "outcome.json"
POLL_SECONDS = 0.5


def write_progress(folder: Path, *, step: int, num_steps: int, state: str) -> None:
    """Called by rank 0 now and then. Never half there, but not flushed to disk: training would wait for that."""
    temporary = folder / f".{PROGRESS}.tmp"
    temporary.write_text(json.dumps({"step": step, "num_steps": num_steps, "state": state}))
    temporary.replace(folder / PROGRESS)


@contextmanager
def watch_progress(folder: Path, progress: Progress) -> Iterator[None]:
    """Pass on what rank 0 writes, for as long as the block runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            try:
                seen = json.loads((folder / PROGRESS).read_bytes())
            except (OSError, ValueError):
                continue
            progress(seen["step"], seen["num_steps"], seen["state"])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        (folder / PROGRESS).unlink(missing_ok=True)


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Called by rank 0 when the weights are written: its presence says that the training is finished."""
    write_bytes(folder / OUTCOME, json.dumps(asdict(outcome)).encode())


def read_outcome(folder: Path) -> Outcome:
    """What a finished training found out. Raises RuntimeError where it did not finish."""
    try:
        return Outcome(**json.loads((folder / OUTCOME).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        raise RuntimeError(f"the training in {folder} ended without a result") from None


def has_outcome(folder: Path) -> bool:
    """True where a training has finished."""
    try:
        read_outcome(folder)
    except RuntimeError:
        return False
    return True


class RankError(RuntimeError):
    """A training failed; the message holds what its ranks said."""


def is_final(error: Exception) -> bool:
    """False for what the death of another rank or a lost connection looks like: those are worth another attempt.

    gloo raises plain RuntimeErrors where a peer is gone.
    """
    passing = (OSError, dist.DistError, torch.AcceleratorError)
    return not isinstance(error, passing) and type(error) is not RuntimeError


def write_rank_error(folder: Path, rank: int, error: Exception) -> None:
    """Leave a rank's error for the driver."""
    kind = "final" if is_final(error) else "passing"
    write_bytes(folder / f"rank-{rank}.{kind}.txt", f"{type(error).__name__}: {error}".encode())


def has_failed_for_good(folder: Path) -> bool:
    """True where a rank met an error that it would meet again."""
    return any(folder.glob("rank-*.final.txt"))


def raise_rank_errors(folder: Path, name: str) -> None:
    """Raise `RankError` where ranks left errors: the causes, or the rest where only consequences are to be had."""
    files = sorted(folder.glob("rank-*.final.txt")) or sorted(folder.glob("rank-*.txt"))
    words = dict.fromkeys(file.read_text() for file in files)
    if words:
        raise RankError(f"{name}: training failed: " + "; ".join(words))
