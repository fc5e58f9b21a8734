"""Reports a pipeline to a tracker while it runs: its start, the curves of its trainings, and how it ended."""

from __future__ import annotations

import getpass
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from shards.records import RunRecord
from wsss.contract.closed_output import READER_GONE, ReaderGoneError
from wsss.contract.fit import WEIGHTS, Fit, spare_path
from wsss.contract.kept_files import relative_files
from wsss.contract.repeated import repeated
from wsss.contract.runtime import Ending, PipelineRecord, PipelineStart, StageStart, Tracker
from wsss.contract.stage import Instance, Map
from wsss.pipeline.changed_settings import changed_settings, resolved_recipe, resolved_settings
from wsss.pipeline.error_file import error_line
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.source_commit import source_commit

CURVE_SECONDS = 10.0
"""How often a tracker is told that a training may have written more points of its curve."""
_STOPPED = "stopped by the user or by the batch system; the same command resumes from there"


class TrackedRun:
    """One run of a recipe, as its tracker sees it."""

    def __init__(self, tracker: Tracker, recipe: Recipe, pipeline: PipelineRecord) -> None:
        self._tracker, self._recipe, self._pipeline = tracker, recipe, pipeline

    @contextmanager
    def reported(self) -> Iterator[None]:
        """The whole run is inside this block."""
        self._tracker.pipeline_started(self._pipeline, pipeline_start(self._recipe))
        with self._endings(None):
            yield
        if self._pipeline.parent:  # nobody else reports the end of what a sweep runs before its trials
            self._tracker.pipeline_finished(self._pipeline, {}, {})

    @contextmanager
    def working(self, instance: Instance) -> Iterator[None]:
        """The work of an instance is inside this block."""
        folder = relative_files({"": str(instance.path)}, folder=self._recipe.runtime.runs)[""]
        stage = StageStart(instance.name, instance.stage.kind, instance.fingerprint, round(time.time(), 3), folder)
        self._tracker.stage_started(self._pipeline, stage)
        with self._endings(stage), self._curve(instance, stage):
            yield

    def finished(self, record: RunRecord) -> None:
        """An instance is finished, now or earlier."""
        self._tracker.stage_finished(self._pipeline, record)

    @contextmanager
    def _curve(self, instance: Instance, stage: StageStart) -> Iterator[None]:
        if not isinstance(instance.stage, Fit):
            yield
            return
        with repeated(lambda: self._tracker.curve_grew(self._pipeline, stage), seconds=CURVE_SECONDS):
            yield

    @contextmanager
    def _endings(self, stage: StageStart | None) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt as stop:
            self._ended("KILLED", READER_GONE if isinstance(stop, ReaderGoneError) else _STOPPED, stage)
            raise
        except Exception as error:
            self._ended("FAILED", error_line(error) or str(error) or type(error).__name__, stage)
            raise

    def _ended(self, status: Literal["KILLED", "FAILED"], reason: str, stage: StageStart | None) -> None:
        self._tracker.ended(self._pipeline, Ending(status, reason, stage))


def pipeline_start(recipe: Recipe) -> PipelineStart:
    """What is recorded when a recipe starts."""
    text = ""
    with suppress(OSError, UnicodeDecodeError):
        text = recipe.path.read_text()
    return PipelineStart(
        changed=changed_settings(recipe),
        resolved=resolved_settings(recipe),
        command=_command(),
        user=_user(),
        git_commit=source_commit(),
        files={"recipe.toml": text, "resolved_recipe.toml": resolved_recipe(recipe)},
        data=_data_set(recipe),
    )


def _data_set(recipe: Recipe) -> list[dict[str, str]]:
    """The samples of the whole pipeline, and what they are for."""
    samples = {instance.samples.fingerprint: instance.samples for instance in recipe.instances}
    trains = any(isinstance(instance.stage, Fit) for instance in recipe.instances)
    return [layer_read(one, "training" if trains else "evaluation") for one in samples.values()]


def layers_read(instance: Instance) -> list[dict[str, str]]:
    """The layers that an instance reads, for `RunRecord.data`."""
    context = "training" if isinstance(instance.stage, Fit) else "evaluation"
    if isinstance(instance.stage, Map):
        context = "inference"
    return [layer_read(one, context) for one in instance.inputs.values() if isinstance(one.stage, Map)]


def layer_read(layer: Instance, context: str) -> dict[str, str]:
    """One entry of `RunRecord.data`."""
    return {"name": layer.name, "digest": layer.fingerprint, "source": layer.path.name, "context": context}


def network_behind(instance: Instance) -> str:
    """Fingerprint of the training nearest upstream, whose network made what an instance reads; empty if none.

    Of several, the last one that is not in the slot `classifier`: a prediction with a classifier's prior is the
    segmenter's.
    """
    level = [instance]
    while level:
        trained = [pair for one in level for pair in one.inputs.items() if isinstance(pair[1].stage, Fit)]
        if trained:
            others = [upstream for slot, upstream in trained if not _is_classifier(slot)]
            return (others or [upstream for _, upstream in trained])[-1].fingerprint
        level = [upstream for one in level for upstream in one.inputs.values()]
    return ""


def _is_classifier(slot: str) -> bool:
    """Whether it is the slot `classifier`, or one of its folds."""
    return slot.partition("_fold")[0] == "classifier"


def kept_weights(instance: Instance) -> dict[str, str]:
    """For `RunRecord.weights`: the names of the files in the instance's folder."""
    stage = instance.stage
    if not isinstance(stage, Fit):
        return {}
    other = {"last": "best", "best": "last"}[stage.keep]
    return {stage.keep: WEIGHTS} | ({other: spare_path(instance).name} if spare_path(instance).exists() else {})


def _command() -> str:
    program = Path(sys.argv[0]).name
    return shlex.join(["wsss" if program in ("wsss", "__main__.py") else program, *sys.argv[1:]])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a name for its user
        return ""
