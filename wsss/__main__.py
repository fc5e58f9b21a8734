"""The command line. It alone sees all four folders; it imports on use, so that `wsss show` never loads Ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsss.arguments import STAGE_COMMANDS, parser

if TYPE_CHECKING:
    from rich.console import Console

    from wsss.contract.runtime import Runtime
    from wsss.pipeline.recipe import Recipe

TOY_RECIPE = Path(__file__).resolve().parents[1] / "tuning" / "recipes" / "toy.toml"


def _console() -> Console:
    from wsss.pipeline.console import plain_console

    return plain_console(stderr=True)


def _out(width: int | None = None) -> Console:
    """Where results go; `width`: columns where that is no terminal."""
    from wsss.pipeline.console import plain_console

    return plain_console(width=width)


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
    from cluster.tracking_address import open_command
    from wsss.pipeline.progress import Reporter
    from wsss.pipeline.recipe import load_recipe
    from wsss.pipeline.run import RunSummary, run_recipe
    from wsss.report.run_results import show_results
    from wsss.report.show_recipe import unread_given

    recipe, console = load_recipe(options.recipe, options.overrides), _console()
    for line in unread_given(recipe):
        console.print(f"not read     {line}", markup=False, soft_wrap=True)
    tracker = MlflowTracker(uri=recipe.runtime.tracking_uri, runs=recipe.runtime.runs, console=console)
    runtime, summary = _runtime(recipe, options.on), RunSummary()
    try:
        for first, last in spans:
            summary.add(
                run_recipe(recipe, runtime=runtime, tracker=tracker, reporter=Reporter(console), first=first, last=last)
            )
        command = open_command(recipe.runtime.tracking_uri, runs=recipe.runtime.runs)
        out = _out(140)
        show_results(recipe, summary, tracker=tracker, console=console, out=out, open_command=command)
    finally:
        runtime.close()
    return 0


def _show(options: argparse.Namespace) -> int:
    from wsss.pipeline.recipe import load_recipe
    from wsss.report.show_recipe import render_recipe

    out = _out(160)
    render_recipe(load_recipe(options.recipe, options.overrides), out)
    return 0


def _plan(options: argparse.Namespace) -> int:
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
    render_plan(plan, _out(120))
    return 0


def _shards(options: argparse.Namespace) -> int:
    from shards.opened import opened
    from wsss.report.show_layer import look
    from wsss.stages.data_sets.shards import tars_of_run

    out, faults = _out(), 0
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
    from tuning.leaderboard import leaderboard, render

    rows = leaderboard(uri=options.tracking_uri, runs=options.runs, everything=options.all)
    _out(140).print(render(rows))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from tuning.compare import compare, render

    result = compare(options.first, options.second, uri=options.tracking_uri, runs=options.runs)
    _out(140).print(render(result))
    return 0


def _check_submission(options: argparse.Namespace) -> int:
    from wsss.stages.evaluation.check_submission import check_submission, expected_images, fault_lines

    if not 1 <= options.num_classes <= 254:
        raise ValueError(f"--num-classes {options.num_classes}: allowed are 1..254, 0 is background and 255 is ignored")
    expected = expected_images(options.samples, options.split) if options.samples else None
    line = ""
    for line in fault_lines(check_submission(options.file, num_classes=options.num_classes, expected=expected)):
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
    """Entry point; returns the exit status: 0 done, 1 a fault that the message explains, 130 interrupted."""
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"wsss: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
