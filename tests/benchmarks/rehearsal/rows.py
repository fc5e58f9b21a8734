"""What one stage took: read from its records, its files, and the watch on its processes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.rehearsal.processes import COMMAND, Watched, read_command
from tests.benchmarks.rehearsal.watch import START, Figures, read_watched
from wsss.contract.fit import Fit
from wsss.contract.stage import Instance, Map

RUNTIME = "driver and Ray"
PARTS = (
    "decode",
    "views and augmentation",
    "network",
    "operation",
    "read and join",
    "encode and write",
    "training loop",
    "other",
    RUNTIME,
)
"""Parts of a row, in the order of its table."""
_REASON_CHARACTERS = 60
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage."""

    instance: str
    kind: str
    records: int
    """Handled: made, and left out or unreadable; for a training, examples."""
    made: int
    """Records that it wrote, or examples."""
    left_out: dict[str, int]
    """Beginning of the reason, with N for numbers -> records that have none."""
    core_seconds: dict[str, float]
    """Part of the work -> CPU seconds after the start-up."""
    waiting: float
    """Seconds in which workers at work used no CPU: for files, for each other, or for a busy machine's cores."""
    seconds: float
    """From the first record to the end, without start-ups."""
    start: float
    """Seconds from the command to the first record."""
    resume: float
    """The same for the command that resumed the stage at 90 % of its shards; 0 if it was not stopped."""
    stage_seconds: float
    """Of the run record."""
    driver_bytes: int
    """Peak memory of the driver."""
    worker_bytes: int
    """Peak memory of the largest worker."""
    disk_bytes: int
    files: int

    @property
    def total(self) -> float:
        return sum(self.core_seconds.values())

    @property
    def core_ms(self) -> float:
        """Core-milliseconds per record."""
        return 1000 * self.total / max(self.records, 1)


@dataclass(frozen=True)
class Attempt:
    """A command that worked on one stage, and the figures of its processes."""

    command: Watched
    processes: Sequence[Figures]

    @property
    def first_work(self) -> float:
        """Unix time; the command's end if nothing was left to do."""
        return min((one["first_work"] for one in self.processes if one["first_work"]), default=self.command.ended)


def read_attempts(folder: Path) -> list[Attempt]:
    """All commands that worked on a stage, in order; of one that was killed with the benchmark nothing is known."""
    if not folder.exists():
        return []
    seen = [one for one in sorted(folder.iterdir()) if (one / COMMAND).exists()]
    return [Attempt(read_command(one), read_watched(one)) for one in seen]


@dataclass
class _Sum:
    """Sums over all attempts."""

    parts: Counter[str] = field(default_factory=Counter)
    waiting: float = 0.0
    driver_bytes: int = 0
    worker_bytes: int = 0

    def add(self, attempt: Attempt) -> None:
        """Workers and loaders by part without their start; all other processes after the first record."""
        workers = [one for one in attempt.processes if one["first_work"] or _is_loader(one)]
        for one in workers:
            known = {part: seconds for part, seconds in one["seconds"].items() if part != START}
            self.parts.update({part if part in PARTS else "other": seconds for part, seconds in known.items()})
            self.worker_bytes = max(self.worker_bytes, one["peak_bytes"])
            self.waiting += max(one["wall_at_work"] - (one["cpu"] - one["cpu_at_first_work"]), 0.0)
        others = frozenset(one["pid"] for one in workers)
        self.parts[RUNTIME] += attempt.command.cpu_after(attempt.first_work, without=others)
        drivers = [one["peak_bytes"] for one in attempt.processes if one["pid"] == attempt.command.pid]
        self.driver_bytes = max([self.driver_bytes, *drivers])


def _is_loader(one: Figures) -> bool:
    return "views and augmentation" in one["seconds"] and not one["first_work"]


def row_of(instance: Instance, attempts: Sequence[Attempt]) -> Row:
    """The row of a finished instance. Attempts before the last one were stopped."""
    total = _Sum()
    for attempt in attempts:
        total.add(attempt)
    record = instance.run_record()
    assert record is not None, instance.name
    handled, made, left_out = _records(instance)
    starts = [attempt.first_work - attempt.command.begun for attempt in attempts]
    sizes = [path.stat().st_size for path in _files(instance.path)]
    return Row(
        instance=instance.name,
        kind=instance.stage.kind,
        records=handled,
        made=made,
        left_out=left_out,
        core_seconds={part: total.parts[part] for part in PARTS},
        waiting=total.waiting,
        seconds=sum(attempt.command.ended - attempt.first_work for attempt in attempts),
        start=starts[0],
        resume=starts[-1] if len(starts) > 1 else 0.0,
        stage_seconds=record.seconds,
        driver_bytes=total.driver_bytes,
        worker_bytes=total.worker_bytes,
        disk_bytes=sum(sizes),
        files=len(sizes),
    )


def _records(instance: Instance) -> tuple[int, int, dict[str, int]]:
    """Records handled, records made, and the rest by reason."""
    if isinstance(instance.stage, Map):
        reasons: Counter[str] = Counter()
        made = 0
        for entry in instance.layer.manifest_entries():
            made += entry.count
            reasons.update(_DIGITS.sub("N", missing.reason)[:_REASON_CHARACTERS] for missing in entry.missing)
        return made + sum(reasons.values()), made, dict(reasons)
    if isinstance(instance.stage, Fit):
        record = instance.run_record()
        assert record is not None
        steps = max(int(str(entry["step"])) for entry in record.tables["history"])
        examples = steps * int(str(record.settings[f"{instance.name}.batch_size"]))
        return examples, examples, {}
    inputs = [one for one in instance.inputs.values() if isinstance(one.stage, Map) and one is not instance.samples]
    counted = sum(entry.count for entry in inputs[0].layer.manifest_entries()) if inputs else 0
    return counted, counted, {}


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
