"""What the pipeline asks of the place it runs in. `cluster/` implements these; stages never see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shards.records import RunRecord
from wsss.stages.fit import Fit
from wsss.stages.stage import Counts, Instance, Map, Outcome, Reduce

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
    """Three verbs, one per kind of stage. Each resumes by itself: what is finished is not done again."""

    def fit(self, instance: Instance, stage: Fit, progress: Progress) -> Outcome:
        """Train; weights stand in the instance's folder when this returns."""
        ...

    def map(self, instance: Instance, stage: Map, progress: Progress) -> None:
        """Make every shard of the instance's layer that is not finished yet."""
        ...

    def reduce(self, instance: Instance, stage: Reduce, progress: Progress) -> Counts:
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
