"""The command line. It alone sees all four folders; it imports on use, so that `wsss show` never loads Ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsss.arguments import STAGE_COMMANDS, parser
from wsss.contract.stopping import STOPPED, exit_status, stop_on_sigterm

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.tracking import MlflowTracker
    from wsss.contract.runtime import Runtime
    from wsss.pipeline.recipe import Recipe
    from wsss.pipeline.run import RunSummary

TOY_RECIPE = Path(__file__).resolve().parents[1] / "tuning" / "recipes" / "toy.toml"


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _runtime(recipe: Recipe, place: str) -> Runtime:
    if place == "local":
        from cluster.local import LocalRuntime

        return LocalRuntime(recipe.runtime)
    from cluster.ray_runtime import RayRuntime

    return RayRuntime(recipe.runtime, address=None if place == "ray" else place)


def _run(options: argparse.Namespace) -> int:
    return _run_chain(options, [(options.first, options.last)])


def _demo(options: argparse.Namespace) -> int:
    options.recipe = TOY_RECIPE
    return _run_chain(options, [(None, None)])


def _stage(options: argparse.Namespace) -> int:
    """Run every instance of one kind, each by itself: what stands before it must be done."""
    from wsss.pipeline.recipe import RecipeError, load_recipe

    kind = options.command.replace("-", "_")
    recipe = load_recipe(options.recipe, options.overrides)
    names = [instance.name for instance in recipe.instances if instance.stage.kind == kind]
    if not names:
        raise RecipeError(f"{options.recipe} has no instance of kind {kind}")
    return _run_chain(options, [(name, name) for name in names])


def _run_chain(options: argparse.Namespace, spans: Sequence[tuple[str | None, str | None]]) -> int:
    """Run one span of instances after the other, each from its first to its last, in one session."""
    from cluster.tracking import MlflowTracker
    from wsss.pipeline.progress import Reporter
    from wsss.pipeline.recipe import load_recipe
    from wsss.pipeline.run import run_recipe
    from wsss.report.show_recipe import unread_given

    recipe, console = load_recipe(options.recipe, options.overrides), _console()
    for line in unread_given(recipe):
        console.print(f"not read     {line}", markup=False, soft_wrap=True)
    tracker = MlflowTracker(uri=recipe.runtime.tracking_uri, runs=recipe.runtime.runs, console=console)
    runtime = _runtime(recipe, options.on)
    try:
        for first, last in spans:
            summary = run_recipe(
                recipe, runtime=runtime, tracker=tracker, reporter=Reporter(console), first=first, last=last
            )
        _present(recipe, summary, tracker, console)
    finally:
        runtime.close()
    return 0


def _present(recipe: Recipe, summary: RunSummary, tracker: MlflowTracker, console: Console) -> None:
    """Table, pictures and the command that opens MLflow; the same files go to MLflow."""
    from rich.console import Console

    from cluster.tracking import open_command
    from shards.files import write_bytes
    from wsss.contract.runtime import PipelineRecord
    from wsss.report.contact_sheet import contact_sheet
    from wsss.report.results_table import (
        classifier_rows,
        markdown,
        markdown_classifiers,
        render,
        render_classifiers,
        result_rows,
    )

    # The table shows all that is known of the recipe, also what an earlier command measured.
    known = {i.name: record for i in recipe.instances if i.is_done() and (record := i.run_record()) is not None}
    rows, artifacts = result_rows(recipe, known), {}
    classifiers, name = classifier_rows(recipe, known), recipe.settings.name
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    if classifiers:
        write_bytes(recipe.results / "classifiers.md", markdown_classifiers(classifiers).encode())
        artifacts["classifiers.md"] = str(recipe.results / "classifiers.md")
        out.print(render_classifiers(classifiers, title=f"{name}: classifiers, at probability 0.5"))
    if rows:
        write_bytes(recipe.results / "results.md", markdown(rows).encode())
        artifacts["results.md"] = str(recipe.results / "results.md")
        out.print(render(rows, title=name))
    if (sheet := contact_sheet(recipe)) is not None:
        write_bytes(recipe.results / "contact_sheet.png", sheet)
        artifacts["contact_sheet.png"] = str(recipe.results / "contact_sheet.png")
        console.print(f"pictures     {recipe.results / 'contact_sheet.png'}", soft_wrap=True)
    for record in summary.records.values():
        if "results.zip" in record.artifacts:
            write_bytes(recipe.results / "results.zip", Path(record.artifacts["results.zip"]).read_bytes())
            console.print(f"submission   {recipe.results / 'results.zip'}", soft_wrap=True)
    for name, count in summary.missing.items():
        console.print(f"[yellow]missing      {count} records of {name}; the reasons stand in its index.json[/]")
    for name, of_splits in summary.left_out.items():
        told = ", ".join(f"{count} {split} images" for split, count in of_splits.items())
        console.print(f"left out     {told} of {name}, by settings; the reasons stand in its index.json")
    metrics = {f"{row.title}.{row.split}.mean_iou": row.mean_iou for row in rows if row.mean_iou is not None}
    tracker.pipeline_finished(PipelineRecord(recipe.settings.name, recipe.fingerprint), metrics, artifacts)
    console.print(f"runs         {open_command(recipe.runtime.tracking_uri, runs=recipe.runtime.runs)}", soft_wrap=True)


def _show(options: argparse.Namespace) -> int:
    from rich.console import Console

    from wsss.pipeline.recipe import load_recipe
    from wsss.report.show_recipe import render_recipe

    out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    render_recipe(load_recipe(options.recipe, options.overrides), out)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from rich.console import Console

    from wsss.plan.hardware import cluster_of
    from wsss.plan.plan import make_plan
    from wsss.plan.render import render_plan

    cluster = cluster_of(
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        gpu=options.gpu,
        cores_per_node=options.cores_per_node,
        network_gbps=options.network_gbps,
        storage_gbps=options.storage_gbps,
    )
    plan = make_plan(options.recipe, options.overrides, cluster=cluster, images=options.images)
    render_plan(plan, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
    return 0


def _shards(options: argparse.Namespace) -> int:
    from rich.console import Console

    from shards.opened import opened
    from wsss.report.show_layer import look
    from wsss.stages.data_sets.shards import tars_of_run

    out, faults = Console(highlight=False), 0
    for place in options.paths:
        with opened(place, tars=tars_of_run(place)) as layer:
            for line in look(layer, options.action, pictures=options.pictures, console=_console()):
                out.print(line.text, markup=False, soft_wrap=True)
                faults += line.is_fault
    return 1 if faults else 0


def _sweep(options: argparse.Namespace) -> int:
    from tuning.sweep import run_sweep

    return run_sweep(options.sweep, overrides=options.overrides, place=options.on, console=_console())


def _leaderboard(options: argparse.Namespace) -> int:
    from rich.console import Console

    from tuning.leaderboard import leaderboard, render

    rows = leaderboard(uri=options.tracking_uri, runs=options.runs, everything=options.all)
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(render(rows))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from rich.console import Console

    from tuning.compare import compare, render

    result = compare(options.first, options.second, uri=options.tracking_uri, runs=options.runs)
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(render(result))
    return 0


def _check_submission(options: argparse.Namespace) -> int:
    from wsss.stages.submit import check_submission, expected_images, tell_faults

    if not 1 <= options.num_classes <= 254:
        raise ValueError(f"--num-classes {options.num_classes}: allowed are 1..254, 0 is background and 255 is ignored")
    expected = expected_images(options.samples, options.split) if options.samples else None
    line = ""
    for line in tell_faults(check_submission(options.file, num_classes=options.num_classes, expected=expected)):
        print(line)
    if expected is None:
        print("not checked: sizes, and whether an image is missing; --samples LAYER names the layer of the images")
    return 0 if line == "in order" else 1


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "demo": _demo,
    "show": _show,
    "plan": _plan,
    "shards": _shards,
    "sweep": _sweep,
    "leaderboard": _leaderboard,
    "compare": _compare,
    "check-submission": _check_submission,
    **dict.fromkeys(STAGE_COMMANDS, _stage),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 a fault that the message explains, 130 interrupted by Ctrl-C,
    143 by SIGTERM."""
    options = parser().parse_args(arguments)
    try:
        with stop_on_sigterm():
            return COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return exit_status()
    except Exception as error:
        from wsss.pipeline.error_file import debug_report, error_line

        told = error_line(error)
        if told is None and not isinstance(error, ValueError | RuntimeError | OSError):
            raise  # a fault of the command line itself
        if getattr(options, "debug", False):
            print(debug_report(error), file=sys.stderr)
        print(f"wsss: {told or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
