"""Seconds per image measured in a small run by the user, used instead of costs.toml: `wsss plan --measured RUN`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from shards.records import RunRecord
from wsss.contract.cost import FitWork, Work
from wsss.contract.fit import Fit
from wsss.contract.settings import hashed_values
from wsss.contract.stage import RUN_RECORD, Instance
from wsss.pipeline.recipe import dotted_settings
from wsss.plan.costs import PlanError

_ROWS = "driver_row"
_ENOUGH = 0.2
"""Later shards are the measurement if they have at least this share of the images."""
_FARTHEST = 150
"""Times as many images as measured, beyond which a plan's fixed costs are far off: they are counted per image."""
_TRAIN_IMAGES = "records.train"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measured times of one instance of a run."""

    seconds: float
    """Per image, or per use of a training example, on one CPU core; on one GPU if `on_gpu`."""
    start: float
    """Seconds of start-up: the remainder of the run's seconds."""
    driver: float
    """Seconds of the driver's own work, for all `images` of the run."""
    images: int
    """Images, or uses of training examples, that were measured."""
    workers: int
    cores: int
    """Threads of each worker."""
    on_gpu: bool
    idle: float | None
    """Share of the time in which a GPU's network waited for records or their writing; None if not measured."""
    examples: float = 0.0
    """Of a training: examples of an epoch, divided by the training images of its data set; 0 if that is not known."""
    differing: tuple[str, ...]
    """Settings that differ from the planned ones: `NAME VALUE_IN_RUN -> PLANNED_VALUE`."""

    def of_as_many(self, work: Work, *, train_images: int) -> Work:
        """The work with as large a part of the training images in an epoch as in the run: there, images without a label
        were left out, or classes balanced."""
        if not isinstance(work, FitWork) or not self.examples:
            return work
        return replace(work, examples=max(1, round(self.examples * train_images)))

    def fits(self, *, has_network: bool, plans_gpus: bool) -> bool:
        """Whether the planned cluster uses the same kind of device for this work."""
        return not has_network or self.on_gpu == plans_gpus

    def driver_seconds(self, work: Work, *, stated: bool) -> float:
        """Driver seconds of the planned work: proportional to its images if the driver's work grows with them, else as
        measured.

        `stated`: whether the stage has a `cost` method, which states what its driver does.
        """
        assert not isinstance(work, FitWork)
        grows = not stated or set(work.driver) - {_ROWS}
        return self.driver * work.images / max(self.images, 1) if grows else self.driver

    def in_words(self) -> str:
        """The measurement as text."""
        device = "GPU" if self.on_gpu else "core"
        what = f"over {self.images:,} images"
        threads = f" of {self.cores} cores" if self.cores > 1 and not self.on_gpu else ""
        workers = f"{self.workers} worker{'s' * (self.workers != 1)}{threads}"
        waited = "" if self.idle is None else f", {self.idle:.0%} of it waiting for decoding and writing"
        fixed = f"start-up {self.start:.1f} s, driver {self.driver:.1f} s"
        return f"{self.seconds:.3g} {device}-s per image{waited}, {what}, {workers}; {fixed}"


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """A run whose measurements replace the figures of costs.toml."""

    folder: Path
    found: Mapping[str, Measured]
    """Instance -> its measurement."""
    lacking: Mapping[str, str]
    """Instance -> why the run has no measurement of it."""


def read_run(folder: Path, instances: tuple[Instance, ...]) -> MeasuredRun:
    """The run records in a folder for these instances, matched by name and kind.

    If there are several for an instance, the one with the fewest differing settings is used, then the latest. Raises:
    `PlanError` if the folder holds no run record.
    """
    paths = sorted({*folder.glob(f"store/*/{RUN_RECORD}"), *folder.glob(f"*/{RUN_RECORD}")})
    records = [record for path in paths if (record := read_record(path)) is not None]
    if not records:
        raise PlanError(
            f"--measured {folder}: it contains no store/*/{RUN_RECORD}; give the folder that the small run wrote "
            "to (its runtime.runs)"
        )
    train_images = max((r.metrics.get(_TRAIN_IMAGES, 0.0) for r in records), default=0.0)
    found: dict[str, Measured] = {}
    lacking: dict[str, str] = {}
    for instance in instances:
        own = [r for r in records if (r.instance, r.kind) == (instance.name, instance.stage.kind)]
        if not own:
            lacking[instance.name] = "it is not in the run"
            continue
        record = min(own, key=lambda r: (len(differing_settings(r, instance)), -r.finished))
        measured = _measured(record, instance, train_images=train_images)
        if isinstance(measured, str):
            lacking[instance.name] = measured
        else:
            found[instance.name] = measured
    return MeasuredRun(folder=folder, found=found, lacking=lacking)


def read_record(path: Path) -> RunRecord | None:
    """The run record in a file; None if it is not one."""
    try:
        return RunRecord(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def differing_settings(record: RunRecord, instance: Instance) -> tuple[str, ...]:
    """Settings that change results and differ from those of the run."""
    planned = dotted_settings(instance)
    counted = {f"{instance.name}.{name}" for name in hashed_values(instance.stage)}
    return tuple(
        f"{name} {_short(record.settings.get(name))} -> {_short(value)}"
        for name, value in planned.items()
        if name in counted and _short(record.settings.get(name)) != _short(value)
    )


def _short(value: object) -> str:
    return json.dumps(value, default=str)


def _measured(record: RunRecord, instance: Instance, *, train_images: float) -> Measured | str:
    """The measurement in a record, or the reason why there is none."""
    work = record.work
    if not {"workers", "threads", "gpus", "driver_seconds"} <= set(work):
        return "its run record has no work times; run it again with this version"
    workers, threads, on_gpu = int(work["workers"]), int(work["threads"]), work["gpus"] > 0
    examples = 0.0
    if isinstance(instance.stage, Fit):
        per_image, busy, images = _training_seconds(record)
        per_worker = per_image * workers
        epochs = len(record.tables.get("history", []))
        examples = images / epochs / train_images if epochs and train_images else 0.0
    else:
        images = int(work.get("images", 0))
        # A worker's first shard includes one-time loading; if there are enough later shards, that counts as start-up.
        kept = "later_" if work.get("later_images", 0.0) > _ENOUGH * images else ""
        per_worker = work.get(f"{kept}seconds", 0.0) / max(work.get(f"{kept}images", 0.0), 1.0)
        busy = per_worker * images / max(workers, 1)
    if not per_worker or not workers:
        return "no worker recorded any time: its shards were reused, or made by another version"
    return Measured(
        seconds=per_worker if on_gpu else per_worker * threads,
        start=max(record.seconds - busy - work["driver_seconds"], 0.0),
        driver=work["driver_seconds"],
        images=images,
        workers=workers,
        cores=threads,
        on_gpu=on_gpu,
        idle=work.get("idle_share"),
        examples=examples,
        differing=differing_settings(record, instance),
    )


def _training_seconds(record: RunRecord) -> tuple[float, float, int]:
    """(seconds per example over all ranks, seconds of all epochs, examples) from the history of a training.

    The first epoch is slower, so it is excluded from the speed if there are others. An epoch of which only the
    validation was left when the training was resumed has no speed. A shorter last batch counts as a full one.
    """
    rates, steps = [], [0]
    for entry in record.tables.get("history", []):
        rates.append(float(str(entry.get("images_per_second", 0))))
        steps.append(int(str(entry.get("step", 0))))
    if not any(rates):
        return 0.0, 0.0, 0
    batch = int(str(record.settings.get(f"{record.instance}.batch_size", 1)))
    examples = [batch * (end - begin) for begin, end in pairwise(steps)]
    steady = [rate for rate in rates[1:] if rate > 0] or [rate for rate in rates if rate > 0]
    per_example = sum(1 / rate for rate in steady) / len(steady)
    busy = sum(
        number / rate if rate > 0 else number * per_example for number, rate in zip(examples, rates, strict=True)
    )
    return per_example, busy, sum(examples)


def measured_lines(
    run: MeasuredRun, *, from_tables: Mapping[str, str], planned: Mapping[str, int] | None = None
) -> list[str]:
    """Lines on the basis of a plan: instances measured by the run, and the others with the reason.

    `planned`: instance -> planned images, of those that the run measured.
    """
    lines = [f"measured by the run in {run.folder}, used instead of the tables:"]
    for name, measured in run.found.items():
        if name in from_tables:
            continue
        lines.append(f"  {name}: {measured.in_words()}")
        if measured.differing:
            lines.append(f"    settings that differ (run -> plan): {'; '.join(measured.differing)}")
    if len(lines) == 1:
        lines.append("  nothing")
    far = [name for name, images in (planned or {}).items() if images > _FARTHEST * run.found[name].images]
    if far:
        lines.append(
            f"  a guess, since the plan has over {_FARTHEST} times as many images, and what the run did once is "
            f"counted as if it grew with them: {', '.join(far)}"
        )
    if from_tables:
        lines.append("not measured by that run:")
    lines += [f"  {name}: {reason}" for name, reason in from_tables.items()]
    return lines
