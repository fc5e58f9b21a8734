"""How long a stage instance takes, from the run records of earlier runs in the same folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.records import RunRecord
from wsss.contract.stage import RUN_RECORD, Instance
from wsss.pipeline.recipe import Recipe
from wsss.plan.measured import differing_settings, read_record

SPLITS = "splits"


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """The expected time of one execution of a stage instance."""

    seconds: float | None
    """None if nothing is known."""
    source: str
    """Where the figure is from, in words."""


class RecordedTimes:
    """Times of stages that ran before with the same name and kind, whatever their settings were.

    Of several records the one with the fewest differing settings counts, then the latest. If it has other splits, its
    seconds are scaled by the number of records. Without a record, the recipe's `expected_seconds` are used.
    """

    def __init__(self, runs: Path) -> None:
        self._store = runs / "store"
        self._records: dict[str, list[RunRecord]] = {}

    def of(self, instance: Instance, recipe: Recipe) -> StageTime:
        """The expected time of an instance."""
        kind = instance.stage.kind
        own = [record for record in self._of_kind(kind) if record.instance == instance.name]
        if own:
            nearest = min(own, key=lambda one: (len(differing_settings(one, instance)), -one.finished))
            return StageTime(seconds=nearest.seconds * _share(nearest, instance), source="recorded")
        if (stated := recipe.settings.expected_seconds.get(instance.name)) is not None:
            return StageTime(seconds=float(stated), source="the recipe's expected_seconds")
        return StageTime(seconds=None, source="not known: it never ran")

    def _of_kind(self, kind: str) -> list[RunRecord]:
        if kind not in self._records:
            paths = sorted(self._store.glob(f"{kind}-*/{RUN_RECORD}"))
            self._records[kind] = [record for path in paths if (record := read_record(path)) is not None]
        return self._records[kind]


def _share(record: RunRecord, instance: Instance) -> float:
    """Records of the planned splits as a share of those of the recorded run; 1 if either is not known."""
    planned = getattr(instance.stage, SPLITS, None)
    recorded = record.settings.get(f"{record.instance}.{SPLITS}")
    if planned is None or not isinstance(recorded, list | tuple):
        return 1.0
    counts = {split: _records_of(record, split) for split in recorded}
    total = sum(counts.values())
    if not total or not set(planned) <= set(counts):
        return 1.0
    return sum(counts[split] for split in planned) / total


def _records_of(record: RunRecord, split: str) -> float:
    """Records, or measured images, of a split."""
    return record.metrics.get(f"records.{split}", record.metrics.get(f"{split}.images", 0.0))
