"""Reports runs to MLflow. Nothing else writes to it; `cluster.tracking.run_writer` says which runs there are."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from cluster.tracking.mlflow_folder import back_up_after_run, refuse_stranger
from cluster.tracking.mlflow_store import (
    CHANGED,
    DATABASE_ATTEMPTS,
    EXPERIMENT,
    FINGERPRINT,
    INSTANCE,
    KEPT,
    KIND,
    PARENT_RUN,
    PIPELINE,
    RECIPE,
    SUPERVISION,
    SWEEP,
    DeletedExperimentError,
    connect,
    find_runs,
    import_early,
)
from cluster.tracking.outbox import Event, Outbox
from cluster.tracking.run_writer import RunWriter
from cluster.tracking.store_errors import in_words
from cluster.tracking.tracking_address import runs_page, server_of, tracking_uri, why_not_written
from cluster.tracking.undelivered import doctor_command
from shards.file_system_errors import FileSystemError
from shards.records import RunRecord
from shards.wording import counted
from wsss.contract.kept_files import relative_files
from wsss.contract.runtime import (
    Ending,
    PipelineRecord,
    PipelineStart,
    StageStart,
    SubmissionRecord,
    SweepOutcome,
    Tracker,
)

__all__ = [
    "CHANGED",
    "DATABASE_ATTEMPTS",
    "EXPERIMENT",
    "FINGERPRINT",
    "INSTANCE",
    "KEPT",
    "KIND",
    "PARENT_RUN",
    "PIPELINE",
    "RECIPE",
    "SUPERVISION",
    "SWEEP",
    "DeletedExperimentError",
    "MlflowTracker",
    "connect",
    "find_runs",
]
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds to wait after a failed attempt; doubled after every failure."""


class MlflowTracker(Tracker):
    """Reports finished stages to MLflow. What cannot be delivered waits in `runs/outbox` and is sent later, once.

    Delivery is tried when something is reported (after a failure only once a pause is over), when a pipeline finishes,
    on `flush`, and when a tracker is created, for records that an earlier process could not deliver.
    """

    def __init__(self, *, uri: str, runs: Path, console: Console) -> None:
        runs = runs.absolute()
        self._uri, self._kept = tracking_uri(uri, runs=runs), why_not_written(uri, runs=runs)
        self._runs = runs
        self._console = console
        self._opened = time.time()
        self._outbox = Outbox(runs / "outbox")
        self._writer: RunWriter | None = None
        self._pause = 0.0
        self._paused_until = 0.0
        self._lock = threading.RLock()  # curves are reported by a thread
        self._waiting_curves: list[dict[str, Any]] = []
        if self._kept:
            self._say(f"MLflow gets no records of this run now: they wait in {self._outbox.folder}. {self._kept}")
        if (left := len(self._outbox.waiting())) and self.flush():
            self._say(f"now in MLflow: {counted(left, 'record')} of earlier runs")

    def import_early(self) -> None:
        """Import MLflow in a thread, so that the first report need not wait for it."""
        import_early()

    def name_page(self) -> None:
        """Print the address of the page with the runs, unless nothing could be delivered yet."""
        if self._writer is not None:
            page = runs_page(self._writer.experiment, server=server_of(self._uri, runs=self._runs))
            self._say(f"runs         {page}")

    def pipeline_started(self, pipeline: PipelineRecord, start: PipelineStart) -> None:
        """Report the start of a pipeline, with its settings."""
        self._report_soon(pipeline, {"start": asdict(start)})

    def stage_started(self, pipeline: PipelineRecord, stage: StageStart) -> None:
        """Report that an instance works: its run appears before it is finished."""
        self._report_soon(pipeline, {"stage": asdict(stage)})

    def curve_grew(self, pipeline: PipelineRecord, stage: StageStart) -> None:
        """Send the new points of a training's curve. They are in the training's folder, so one waiting record is
        enough, however long the server is away."""
        event = {"curve": asdict(stage)}
        with self._lock:
            if event not in self._waiting_curves:
                self._waiting_curves.append(event)
                self._report(pipeline, event)
            if time.monotonic() >= self._paused_until:
                self.flush()

    def ended(self, pipeline: PipelineRecord, ending: Ending) -> None:
        """Report that an instance or the whole pipeline was stopped or failed."""
        self._report_soon(pipeline, {"ending": asdict(ending)})
        if ending.stage is None:
            back_up_after_run(self._uri, say=self._say)

    def submission_made(self, pipeline: PipelineRecord, submission: SubmissionRecord) -> None:
        """Report a submission."""
        files = relative_files(submission.files, folder=self._runs)
        self._report_soon(pipeline, {"submission": asdict(submission) | {"files": files}})

    def sweep_state(self, name: str, status: Literal["RUNNING", "FINISHED", "KILLED", "FAILED"], reason: str) -> None:
        """Report that a sweep starts, or how it ended."""
        self._report_soon(PipelineRecord("", ""), {"sweep": name, "status": status, "reason": reason})

    def sweep_finished(self, name: str, outcome: SweepOutcome) -> None:
        """Report what a sweep found."""
        files = relative_files(outcome.files, folder=self._runs)
        self._report_soon(PipelineRecord("", ""), {"sweep": name, "outcome": asdict(outcome) | {"files": files}})

    def stage_finished(self, pipeline: PipelineRecord, record: RunRecord) -> None:
        """Report one stage instance. If MLflow already has its finished run, nothing is changed."""
        artifacts = relative_files(record.artifacts, folder=self._runs)
        self._report_soon(pipeline, {"record": asdict(record) | {"artifacts": artifacts}})

    def pipeline_finished(self, pipeline: PipelineRecord, metrics: dict[str, float], artifacts: dict[str, str]) -> None:
        """Report the end of a pipeline, with the metrics and artifacts of the whole pipeline."""
        plain = {name: float(value) for name, value in metrics.items()}
        self._report(pipeline, {"metrics": plain, "artifacts": relative_files(artifacts, folder=self._runs)})
        if self.flush():
            back_up_after_run(self._uri, say=self._say)

    def flush(self) -> bool:
        """Try to deliver all waiting records; True if none is left."""
        with self._lock:
            return self._flush()

    def _flush(self) -> bool:
        if not self._outbox.waiting():
            return True
        if self._kept:
            return False
        try:
            refuse_stranger(self._uri)
            if self._writer is None:
                self._writer = RunWriter(connect(self._uri), runs=self._runs, console=self._console)
            delivered, rejected = self._outbox.deliver(self._writer.deliver)
        except Exception as error:  # no error of the tracking may stop the pipeline
            self._wait(error)
            return False
        for reason in rejected:
            self._say(
                f"MLflow rejected a record, now in {self._outbox.folder / 'rejected'} (to try again, move it "
                f"back to {self._outbox.folder}): {reason}"
            )
        if self._pause:
            self._say(f"MLflow can be reached again: {counted(delivered, 'record')} delivered")
        self._waiting_curves.clear()
        self._pause = self._paused_until = 0.0
        return True

    def _report_soon(self, pipeline: PipelineRecord, event: Event) -> None:
        with self._lock:
            self._report(pipeline, event)
            if time.monotonic() >= self._paused_until:
                self.flush()

    def _report(self, pipeline: PipelineRecord, event: Event) -> None:
        try:
            opened = pipeline.started or self._opened
            self._outbox.put({"time": time.time(), "opened": opened, "pipeline": asdict(pipeline)} | event)
        except (OSError, FileSystemError) as error:
            self._say(f"a record for MLflow will be written by the next run of this recipe: {error}")

    def _wait(self, error: Exception) -> None:
        self._writer = None
        if not self._pause:
            reason = in_words(error)
            self._say(
                f"MLflow at {self._uri} cannot be written to ({reason}); the run continues. "
                f"{doctor_command(self._runs)} examines it. "
                f"Records waiting in {self._outbox.folder}: {len(self._outbox.waiting())}"
            )
        self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
        self._paused_until = time.monotonic() + self._pause

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
