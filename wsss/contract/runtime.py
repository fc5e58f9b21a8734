"""What the pipeline asks of the place it runs in. `cluster/` implements these; stages never see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from shards.records import RunRecord
from wsss.contract.counts import Counts
from wsss.contract.failure import OnRestart, ignore_restart
from wsss.contract.fit import Fit
from wsss.contract.settings import settings
from wsss.contract.stage import Instance, Map, Outcome, Reduce


@settings
class RuntimeSettings:
    """The table `[runtime]`: where and how things run. It changes no result on CPUs."""

    runs: Path = Path("runs")
    """Folder of everything that is written; on a cluster, one that all nodes share."""
    num_actors: Annotated[int, Field(ge=0)] = 0
    """Actors that work through shards; 0 takes one per CPU of the cluster (per GPU where `actor_gpus` is set)."""
    actor_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs per actor."""
    rank_gpus: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs per training rank: 0 or 1."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of every worker and rank; equal bytes need equal threads."""
    placement: Literal["PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    """How training ranks are placed on nodes."""
    shard_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that an actor may be at work on one shard, its start of a network included; one that takes longer is
    ended and its shard given to another. 0 lets it work for ever. With `--on local` the run ends there."""
    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a layer's records that may be missing before the run stops."""
    rank_retries: Annotated[int, Field(ge=0)] = 3
    """How often a training goes on from its last checkpoint after a rank died."""
    tracking_uri: str = ""
    """MLflow's tracking address; `MLFLOW_TRACKING_URI` where empty, else SQLite in `runs`."""


Progress = Callable[[float, float, str], None]
"""Called with (done, total, a few words on the state)."""


@dataclass(frozen=True)
class PipelineRecord:
    """What tracking needs to know of a whole run."""

    recipe: str
    fingerprint: str
    parent: str = ""
    """Name of the run (a sweep) that this one belongs to."""
    settings: Mapping[str, object] = field(default_factory=dict, compare=False)
    """What sets this run apart from the others of its sweep: name -> value."""


class Runtime(Protocol):
    """Three verbs, one per kind of stage. Each resumes by itself: what is finished is not done again.

    `on_restart` is called as soon as a worker was replaced. What a worker raises names the shard, the sample or the
    step; see `wsss.contract.failure`.
    """

    def fit(
        self, instance: Instance, stage: Fit, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Outcome:
        """Train; weights stand in the instance's folder when this returns."""
        ...

    def map(
        self, instance: Instance, stage: Map, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> None:
        """Make every shard of the instance's layer that is not finished yet."""
        ...

    def reduce(
        self, instance: Instance, stage: Reduce, progress: Progress, *, on_restart: OnRestart = ignore_restart
    ) -> Counts:
        """Count every shard and add the counts up."""
        ...

    def close(self) -> None:
        """Release processes."""
        ...


class Tracker(Protocol):
    """Where finished stages are reported. It never stops the work: what cannot be delivered is kept for later."""

    def stage_finished(self, pipeline: PipelineRecord, record: RunRecord) -> None: ...

    def pipeline_finished(
        self, pipeline: PipelineRecord, metrics: dict[str, float], artifacts: dict[str, str]
    ) -> None: ...
