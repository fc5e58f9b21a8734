"""The interfaces that the pipeline needs from its environment. `cluster/` implements them; stages never use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BeforeValidator, Field

from shards.records import RunRecord
from wsss.contract.counts import Counts
from wsss.contract.failure import OnRestart, ignore_restart
from wsss.contract.fit import Fit
from wsss.contract.folds import base_name
from wsss.contract.resources import PositiveShare, Resources, Share, StageResources, can_use_gpus
from wsss.contract.settings import settings
from wsss.contract.stage import Instance, Map, Outcome, Reduce


def _not_empty(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty, as from a variable of the shell that is not set; name a folder (. is this one)")
    return value


def _no_file(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder, which is made if it does not exist")
    return folder


@settings
class RuntimeSettings:
    """The table `[runtime]`: where and how stages run. On CPUs it does not change results."""

    runs: Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_no_file)] = Path("runs")
    """Folder to which everything is written; on a cluster, all nodes must share it."""
    num_actors: Annotated[int, Field(ge=0)] = 0
    """Number of actors that process shards; 0 uses as many as fit into the cluster."""
    actor_cpus: PositiveShare = 1.0
    """CPUs that an actor holds; it computes with `threads` threads. An actor with a GPU decodes the next images in
    threads on all of them but one, and encodes in one more."""
    actor_gpus: Share = 0.0
    """GPUs that an actor holds, in stages that can use one: building shards and measuring hold none. With a share below
    1, several actors compute on one GPU, and each takes no more of its memory than its share."""
    rank_cpus: PositiveShare = 1.0
    """CPUs that a training rank holds, together with its `loader_workers`."""
    rank_gpus: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs per training rank: 0 or 1."""
    stages: dict[str, StageResources] = Field(default_factory=dict)
    """Resources of single stages, written as tables: `[runtime.KIND]` or `[runtime.INSTANCE]` with some of
    `num_actors`, `actor_cpus`, `actor_gpus`, `rank_cpus` and `rank_gpus`."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of every worker and rank; results are only bit-identical with the same number of threads."""
    placement: Literal["PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    """Ray's placement strategy for training ranks on nodes."""
    shard_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Longest time in seconds that an actor may spend on one shard, including loading a network. An actor that takes
    longer is killed and another one gets its shard; with `--on local` the run stops instead. 0 sets no limit."""
    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a layer's records that may be missing before the run stops."""
    disk_check: bool = True
    """Before a stage starts, refuse it if the disk of `runs` will not hold the layer that it writes (an estimate)."""
    rank_retries: Annotated[int, Field(ge=0)] = 3
    """How often a training resumes from its last checkpoint after a rank died or could not be started. A preemption (a
    spot instance that is taken away) counts only if no checkpoint has been saved since the one before."""
    stop_seconds: Annotated[float, Field(ge=0)] = 20.0
    """Seconds after SIGTERM in which a training may save a checkpoint before it is ended; 0 ends it at once, and the
    next run resumes from its last checkpoint. Set it below the time that the batch system gives before SIGKILL."""
    tracking_uri: str = ""
    """MLflow tracking URI; if empty, `MLFLOW_TRACKING_URI`, and if that is not set, SQLite in `runs`."""

    def resources_of(self, instance: Instance) -> Resources:
        """What the workers of an instance hold: as in its own table, else that of its kind, else in general."""
        given = [self.stages[name] for name in _names(instance) if name in self.stages]

        def chosen(name: str) -> Any:
            own = (value for one in given if (value := getattr(one, name)) is not None)
            return next(own, getattr(self, name))

        return Resources(
            num_actors=chosen("num_actors"),
            actor_cpus=chosen("actor_cpus"),
            actor_gpus=chosen("actor_gpus") if can_use_gpus(type(instance.stage)) else 0.0,
            rank_cpus=chosen("rank_cpus"),
            rank_gpus=chosen("rank_gpus"),
        )

    def name_of(self, setting: str, instance: Instance) -> str:
        """The dotted name under which an instance's value of a resource was given, for messages."""
        given = [name for name in _names(instance) if name in self.stages]
        own = (f"runtime.{name}.{setting}" for name in given if getattr(self.stages[name], setting) is not None)
        return next(own, f"runtime.{setting}")


def _names(instance: Instance) -> tuple[str, ...]:
    """The names of tables that give an instance resources, the nearest first."""
    return tuple(dict.fromkeys((instance.name, base_name(instance.name, instance.stage), instance.stage.kind)))


Progress = Callable[[float, float, str], None]
"""Called with (done, total, a short text on the state)."""


@dataclass(frozen=True)
class PipelineRecord:
    """What tracking needs to know about a whole run."""

    recipe: str
    fingerprint: str
    parent: str = ""
    """Name of the run (a sweep) that this one belongs to."""
    settings: Mapping[str, object] = field(default_factory=dict, compare=False)
    """The settings in which this run differs from the others of its sweep: name -> value."""
    lineage: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Of a trial, whose stages are mostly those of other runs: every instance behind its score -> its fingerprint."""
    started: float = field(default=0.0, compare=False)
    """Unix time; 0 if it started with the process that reports it."""


class Runtime(Protocol):
    """Three methods, one per kind of stage. Each resumes by itself: finished work is not repeated. `check` comes first.

    `on_restart` is called as soon as a worker has been replaced. Errors from workers name the shard, the sample or the
    step; see `wsss.contract.failure`.
    """

    def check(self, instances: Sequence[Instance]) -> None:
        """Raise ValueError or RuntimeError, before any of these instances runs, if one of them cannot run here: the
        folder of runs is not shared by all nodes, or the resources of a stage will never be there."""
        ...

    def fit(
        self, instance: Instance, stage: Fit, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Outcome:
        """Train; the weights are in the instance's folder when this returns."""
        ...

    def map(
        self, instance: Instance, stage: Map, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> None:
        """Make all shards of the instance's layer that are not finished yet."""
        ...

    def reduce(
        self, instance: Instance, stage: Reduce, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Counts:
        """Count every shard and sum the counts."""
        ...

    def release(self) -> None:
        """Release idle processes, before waiting for another run: they would hold CPUs that it needs."""
        ...

    def close(self) -> None:
        """Release processes."""
        ...


@dataclass(frozen=True)
class PipelineStart:
    """What is recorded of a pipeline when it starts."""

    changed: Mapping[str, object]
    """The settings that differ from the recipe's file: dotted name -> value."""
    resolved: Mapping[str, object]
    """All settings that can change the results: dotted name -> value."""
    command: str
    """The command that started it, as typed in a shell."""
    user: str
    git_commit: str
    files: Mapping[str, str]
    """Name -> text: the recipe's file, and the recipe with all settings resolved."""
    data: Sequence[Mapping[str, str]] = ()
    """The data set: as `RunRecord.data`."""


@dataclass(frozen=True)
class StageStart:
    """What is recorded of a stage instance when it starts."""

    instance: str
    kind: str
    fingerprint: str
    started: float
    """Unix time in seconds."""
    path: str
    """Its folder, in which a training writes its curve."""


@dataclass(frozen=True)
class Ending:
    """Why a stage instance, a pipeline or a sweep ended before it was finished."""

    status: Literal["KILLED", "FAILED"]
    reason: str
    stage: StageStart | None = None
    """None: the whole pipeline."""


@dataclass(frozen=True)
class SubmissionRecord:
    """A finished submission, with everything that led to it."""

    instance: str
    fingerprint: str
    settings: Mapping[str, object]
    """All settings behind it: dotted name -> value."""
    changed: Mapping[str, object]
    """Those of them that differ from the recipe's file."""
    lineage: Mapping[str, str]
    """Every instance behind it -> its fingerprint."""
    metrics: Mapping[str, float]
    """Score of the predictions, and IoU of every class, where a split with masks was measured."""
    score: str
    """In words: on which split, and by which instance."""
    verdict: str
    """What the check of the archive found: `in order`, or the faults."""
    git_commit: str
    files: Mapping[str, str]
    """Name -> path: the archive and its description."""
    data: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class SweepOutcome:
    """What a finished sweep found."""

    about: Mapping[str, str]
    """What was searched, in words: title -> text."""
    metrics: Mapping[str, float]
    """Scores and counts of the whole sweep."""
    best: Mapping[str, object]
    """The best settings: dotted name -> value."""
    files: Mapping[str, str]
    """Name -> path: the tables, the best recipe, pictures."""


class Tracker:
    """Receives reports of a pipeline. Never stops the work: undelivered reports are kept for later.

    This one records nothing; others override what they record.
    """

    def pipeline_started(self, pipeline: PipelineRecord, start: PipelineStart) -> None:
        """A pipeline starts, or continues."""

    def stage_started(self, pipeline: PipelineRecord, stage: StageStart) -> None:
        """A stage instance starts, or continues."""

    def curve_grew(self, pipeline: PipelineRecord, stage: StageStart) -> None:
        """A training in progress may have written more points of its curve."""

    def stage_finished(self, pipeline: PipelineRecord, record: RunRecord) -> None:
        """A stage instance is finished, now or earlier."""

    def ended(self, pipeline: PipelineRecord, ending: Ending) -> None:
        """A stage instance or a pipeline was stopped or failed."""

    def submission_made(self, pipeline: PipelineRecord, submission: SubmissionRecord) -> None:
        """A submission is finished, now or earlier."""

    def pipeline_finished(self, pipeline: PipelineRecord, metrics: dict[str, float], artifacts: dict[str, str]) -> None:
        """A pipeline is finished."""
