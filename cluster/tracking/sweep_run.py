"""The run of a sweep: it is running until the sweep ends, and says how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.tracking.tracker import MlflowTracker
from wsss.contract.closed_output import READER_GONE, ReaderGoneError


@contextmanager
def tracked_sweep(tracker: MlflowTracker, name: str) -> Iterator[None]:
    """The whole sweep is inside this block. One that is killed without warning stays running until it is resumed."""
    tracker.sweep_state(name, "RUNNING", "")
    try:
        yield
    except KeyboardInterrupt as stop:
        stopped = "stopped by the user or by the batch system; the same command resumes it"
        tracker.sweep_state(name, "KILLED", READER_GONE if isinstance(stop, ReaderGoneError) else stopped)
        raise
    except Exception as error:
        tracker.sweep_state(name, "FAILED", str(error) or type(error).__name__)
        raise
    tracker.sweep_state(name, "FINISHED", "")
