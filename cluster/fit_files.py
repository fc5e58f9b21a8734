"""Files through which a training's ranks speak to their driver, wherever they run: progress and outcome."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from shards.files import write_bytes

from wsss.runtime import Progress
from wsss.stages.stage import Outcome

PROGRESS = "progress.json"
OUTCOME = "outcome.json"
POLL_SECONDS = 0.5


def write_progress(folder: Path, *, step: int, num_steps: int, state: str) -> None:
    """Called by rank 0 now and then."""
    write_bytes(folder / PROGRESS, json.dumps({"step": step, "num_steps": num_steps, "state": state}).encode())


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
    except FileNotFoundError:
        raise RuntimeError(f"the training in {folder} ended without a result") from None
