"""Run a recipe's instances in order: skip those that are done, run the others and record their results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from shards.files import remove_leftovers, write_bytes
from shards.records import RunRecord, Sample
from shards.work_notes import forget_notes
from wsss.contract.failure import Failure, OnRestart
from wsss.contract.fit import Fit
from wsss.contract.folds import cautions_of
from wsss.contract.runtime import PipelineRecord, Runtime, Tracker
from wsss.contract.shard_times import remove_times
from wsss.contract.stage import Instance, Map, Outcome, Reduce
from wsss.contract.stopping import raise_if_stopped
from wsss.pipeline.environment_check import check_environments
from wsss.pipeline.error_file import keep_error, left_at_work, remove_error
from wsss.pipeline.fold_tables import check_counted_shards
from wsss.pipeline.instance_lock import locked
from wsss.pipeline.lost_workers import count_losses, loss_lines
from wsss.pipeline.missing_records import TooManyMissingError, missing_in_words, replaced_notes, require_records
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import Recipe, RecipeError, dotted_settings, supervision_behind
from wsss.pipeline.source_commit import check_commit, source_commit
from wsss.pipeline.tracked_run import TrackedRun, kept_weights, layers_read, network_behind
from wsss.pipeline.work_measurements import memory_notes, work_of


@dataclass
class RunSummary:
    """What one run of a recipe did."""

    executed: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    records: dict[str, RunRecord] = field(default_factory=dict)
    """Instance -> its run record, executed or reused."""
    missing: dict[str, str] = field(default_factory=dict)
    """Instance -> how many records are missing in its layer and the first reasons, if there are any."""
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """Instance -> split -> number of samples that settings excluded from its layer, if there are any."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Instance -> why it had nothing to do."""

    def add(self, other: RunSummary) -> None:
        """Add what another run of the same recipe did."""
        self.executed += other.executed
        self.reused += other.reused
        self.records |= other.records
        self.missing |= other.missing
        self.left_out |= other.left_out
        self.skipped |= other.skipped


def selected(recipe: Recipe, first: str | None, last: str | None) -> tuple[Instance, ...]:
    """The instances from `first` to `last`, both included; if not given, the first and last of the recipe. A training
    with folds may be named as in the recipe's file, for its first fold (`first`) or its last."""
    names = [instance.name for instance in recipe.instances]
    start = names.index(recipe.named(first)[0].name) if first is not None else 0
    stop = names.index(recipe.named(last)[-1].name) + 1 if last is not None else len(names)
    if start >= stop:
        raise RecipeError(f"--from {first} comes after --to {last}; the order is {', '.join(names)}")
    return recipe.instances[start:stop]


def ready_to_run(recipe: Recipe, first: str | None, last: str | None) -> tuple[Instance, ...]:
    """The instances from `first` to `last`. Raises `RecipeError` if one that they read is not done, or if a network
    cannot be built, and ValueError if the environment names a commit that is none, or not that of the checkout."""
    check_commit()
    chosen = selected(recipe, first, last)
    for instance in _upstream(chosen):
        if not instance.is_done():
            raise RecipeError(
                f"{instance.name} is not done yet, and {chosen[0].name} reads it; start with --from {instance.name}"
            )
    check_environments([instance for instance in chosen if not instance.is_done()])
    return chosen


def run_recipe(
    recipe: Recipe,
    *,
    runtime: Runtime,
    tracker: Tracker,
    reporter: Reporter,
    first: str | None = None,
    last: str | None = None,
    parent: str = "",
    check_room: Callable[[Recipe, Instance], str] = lambda *_: "",
) -> RunSummary:
    """Run the chosen instances. Raises `RecipeError` if an instance that they read is not done.

    `check_room`: called before a stage runs; raises `RecipeError` if there is no room for what it writes, and returns a
    line if there may be none.
    """
    chosen = ready_to_run(recipe, first, last)
    pipeline = PipelineRecord(recipe.settings.name, recipe.fingerprint, parent)
    make_runs_folder(recipe)
    pending = [instance for instance in chosen if not instance.is_done()]
    runtime.check(pending)
    summary, tracked = RunSummary(), TrackedRun(tracker, recipe, pipeline)
    reporter.start([instance.name for instance in chosen], recipe.settings.expected_seconds)
    try:
        with tracked.reported():
            for instance in chosen:
                if reason := instance.stage.skip_reason(instance):
                    summary.skipped[instance.name] = reason
                    reporter.skipped(instance.name, reason)
                    continue
                raise_if_stopped()
                pending = _without_counted(pending)
                if instance.run_record() is None and (line := check_room(recipe, instance)):
                    reporter.note(f"note   {line}")
                record = run_instance(
                    recipe, instance, runtime=runtime, reporter=reporter, summary=summary, tracked=tracked
                )
                summary.records[instance.name] = record
                tracked.finished(record)
    finally:
        reporter.stop()
    return summary


def _without_counted(pending: Sequence[Instance]) -> list[Instance]:
    """Those whose samples are not done yet; of the others the shards are counted, before hours of work are spent on
    what they read. Raises `RecipeError`."""
    check_counted_shards(one for one in pending if one.samples.is_done())
    return [one for one in pending if not one.samples.is_done()]


def check_spans(recipe: Recipe, spans: Sequence[tuple[str | None, str | None]], *, runtime: Runtime) -> None:
    """Let the runtime refuse what it cannot run of several spans of instances, each given as (first, last)."""
    make_runs_folder(recipe)
    runtime.check([one for first, last in spans for one in selected(recipe, first, last) if not one.is_done()])


def _upstream(chosen: tuple[Instance, ...]) -> list[Instance]:
    """Instances that the chosen ones read and that are not themselves chosen."""
    names = {instance.name for instance in chosen}
    outside = {up.name: up for instance in chosen for up in instance.inputs.values() if up.name not in names}
    return list(outside.values())


def make_runs_folder(recipe: Recipe) -> None:
    """Make the folder of runs. Raises `RecipeError` if it cannot be written to."""
    try:
        (recipe.runtime.runs / "store").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"runtime.runs = {str(recipe.runtime.runs)!r} cannot be written to ({error.strerror}); name another folder"
        ) from None


def run_instance(
    recipe: Recipe,
    instance: Instance,
    *,
    runtime: Runtime,
    reporter: Reporter,
    summary: RunSummary,
    tracked: TrackedRun | None = None,
) -> RunRecord:
    """Run one instance unless it is done, and return its record."""
    restarts: list[Failure] = []

    def restarted(failure: Failure) -> None:
        restarts.append(failure)
        reporter.restarted(instance.name, failure)

    def waiting(holder: str) -> None:
        runtime.release()
        reporter.waiting(instance.name, holder)

    with locked(instance.path, waiting=waiting):
        record = instance.run_record()
        if record is not None and instance.is_done():
            summary.reused.append(instance.name)
            reporter.reused(instance.name)
            _count_missing(recipe, instance, summary)
            return record
        reporter.begin(instance.name)
        for caution in cautions_of(instance):
            reporter.note(f"note   {caution}")
        started = returned = time.monotonic()

        def worked() -> None:
            nonlocal returned
            returned = time.monotonic()

        with tracked.working(instance) if tracked else nullcontext(), _keeping_errors(instance, restarts):
            outcome = _execute(recipe, instance, runtime, reporter, summary, worked=worked, on_restart=restarted)
            seconds = time.monotonic() - started
            work = work_of(instance, recipe.runtime, driver_seconds=time.monotonic() - returned)
            record = _record_of(recipe, instance, outcome, seconds, work=work, restarts=restarts)
            instance.write_run_record(record)
        remove_times(instance.path)
        remove_error(instance)
    summary.executed.append(instance.name)
    reporter.end(instance.name, seconds)
    reporter.notes(instance.name, outcome.notes)
    return record


@contextmanager
def _keeping_errors(instance: Instance, restarts: Sequence[Failure]) -> Iterator[None]:
    try:
        yield
    except TooManyMissingError:
        raise  # its message gives the reasons; there is no traceback worth keeping
    except Exception as error:
        keep_error(error, instance, restarts=restarts)
        raise


def _execute(
    recipe: Recipe,
    instance: Instance,
    runtime: Runtime,
    reporter: Reporter,
    summary: RunSummary,
    *,
    worked: Callable[[], None],
    on_restart: OnRestart,
) -> Outcome:
    """`worked` is called as soon as all workers are done, before the driver does the remaining work alone."""
    stage = instance.stage
    forget_notes()  # the driver may have read records since, for a table or a picture
    for message in left_at_work(instance):
        reporter.note(f"{instance.name}: {message}; its work is resumed")
    remove_leftovers(instance.path)  # of a driver or worker that was killed
    write_bytes(instance.path / "settings.json", json.dumps(_lineage(instance), indent=1, sort_keys=True).encode())
    if instance.inputs:
        instance.data.forget_lists()
    if isinstance(stage, Fit):
        outcome = runtime.fit(instance, stage, reporter.progress, on_restart=on_restart)
        worked()
        return replace(outcome, notes=(*outcome.notes, *replaced_notes(outcome, instance.path)))
    if isinstance(stage, Map):
        runtime.map(instance, stage, reporter.progress, on_restart=on_restart)
        worked()
        classes = instance.taxonomy.names if instance.layer.kind == Sample.kind else None
        instance.layer.complete(stage.shards(instance), classes=classes)
        _count_missing(recipe, instance, summary)
        counts = instance.layer.counts()
        if left_out := summary.left_out.get(instance.name):
            counts["left_out"] = sum(left_out.values())
        found, records = stage.outcome(instance), {f"records.{name}": float(count) for name, count in counts.items()}
        return replace(
            found,
            metrics=records | found.metrics,
            notes=(*found.notes, *_mixed_hardware(instance), *memory_notes(instance)),
        )
    assert isinstance(stage, Reduce), f"{instance.name} is of no known kind"
    summed = runtime.reduce(instance, stage, reporter.progress, on_restart=on_restart)
    worked()
    return stage.finish(instance, summed)


def _mixed_hardware(instance: Instance) -> list[str]:
    """A note if the shards of a layer were computed on different hardware."""
    made_on = instance.layer.made_on()
    if len(made_on) < 2:
        return []
    found = "; ".join(f"{shards} shards on {where}" for where, shards in sorted(made_on.items()))
    return [f"computed on different hardware, so that values may differ in their last bits: {found}"]


def _lineage(instance: Instance) -> dict[str, object]:
    """The settings of an instance and, recursively, of everything it reads."""
    return {
        "kind": instance.stage.kind,
        "fingerprint": instance.fingerprint,
        "seed": instance.seed,
        "settings": dotted_settings(instance),
        "upstream": {slot: _lineage(up) for slot, up in instance.inputs.items()},
    }


def _count_missing(recipe: Recipe, instance: Instance, summary: RunSummary) -> None:
    """Count missing records of a layer; raise an error if there are more than the recipe allows."""
    if not isinstance(instance.stage, Map):
        return
    if found := missing_in_words(instance):
        summary.missing[instance.name] = found
    if left_out := instance.layer.left_out():
        summary.left_out[instance.name] = {split: len(reasons) for split, reasons in left_out.items()}
    require_records(instance, most=recipe.runtime.max_missing)


def _record_of(
    recipe: Recipe,
    instance: Instance,
    outcome: Outcome,
    seconds: float,
    *,
    work: dict[str, float],
    restarts: Sequence[Failure],
) -> RunRecord:
    return RunRecord(
        recipe=recipe.settings.name,
        instance=instance.name,
        kind=instance.stage.kind,
        fingerprint=instance.fingerprint,
        settings=dotted_settings(instance),
        upstream={up.name: up.fingerprint for up in instance.inputs.values()},
        git_commit=source_commit(),
        metrics=outcome.metrics,
        tables=outcome.tables,
        artifacts=outcome.artifacts,
        seconds=round(seconds, 2),
        finished=round(time.time(), 2),
        supervision=supervision_behind(instance),
        work=work,
        restarts=len(restarts),
        losses=count_losses(restarts),
        lost=loss_lines(restarts),
        data=layers_read(instance),
        model=network_behind(instance),
        weights=kept_weights(instance),
        trains=instance.stage.trains if isinstance(instance.stage, Fit) else "",
    )
