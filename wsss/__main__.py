"""The command line. Only this module imports all four packages, and only on use: `wsss show` never loads Ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wsss.arguments import parser, stage_commands
from wsss.contract.closed_output import drop_output, reader_is_gone
from wsss.contract.stopping import ENDED, STOPPED, exit_status, stop_on_sigterm

if TYPE_CHECKING:
    from rich.console import Console

    from wsss.contract.runtime import Runtime, RuntimeSettings
    from wsss.pipeline.recipe import Recipe
    from wsss.report.tables import Page

_GROUPS = ("recipe", "runtime")


def _console() -> Console:
    from wsss.pipeline.console import plain_console

    return plain_console(stderr=True)


def _load(options: argparse.Namespace) -> Recipe:
    """The recipe that the command line names: a path, or the name of a shipped recipe."""
    from wsss.pipeline.recipe import load_recipe
    from wsss.pipeline.recipe_files import RECIPES, find_file

    path = find_file(options.recipe, shipped=RECIPES)
    return load_recipe(path, options.overrides)


def _runtime(settings: RuntimeSettings, place: str, console: Console) -> Runtime:
    """The runtime for `--on`; slow imports are announced first."""
    if place == "local":
        if "torch" not in sys.modules:
            console.print("loading torch …")
        from cluster.local import LocalRuntime

        return LocalRuntime(settings)
    from cluster.session.address import connecting_line

    console.print(connecting_line(place), markup=False)
    from cluster.ray_runtime import RayRuntime

    return RayRuntime(settings, address=None if place == "ray" else place)


def _run(options: argparse.Namespace) -> int:
    return _run_chain(options, [(options.first, options.last)])


def _demo(options: argparse.Namespace) -> int:
    options.recipe = Path("toy")
    return _run_chain(options, [(None, None)])


def _stage(options: argparse.Namespace) -> int:
    """Run every instance of one kind, each by itself; their inputs must be done."""
    from wsss.pipeline.recipe import RecipeError

    kind = stage_commands()[options.command]
    recipe = _load(options)
    names = [instance.name for instance in recipe.instances if instance.stage.kind == kind]
    if not names:
        raise RecipeError(f"{options.recipe} has no instance of kind {kind}")
    return _run_chain(options, [(name, name) for name in names])


def _run_chain(options: argparse.Namespace, spans: Sequence[tuple[str | None, str | None]]) -> int:
    """Run spans of instances one after the other, each given as (first, last), in one session."""
    from cluster.session.address import check_place

    check_place(options.on)
    recipe, console = _load(options), _console()
    # Slow imports come after the recipe is checked, so that its errors are reported immediately.
    from cluster.tracking.tracker import MlflowTracker
    from cluster.tracking.tracking_address import open_command
    from wsss.pipeline.progress import Reporter
    from wsss.pipeline.run import RunSummary, check_spans, make_runs_folder, ready_to_run, run_recipe
    from wsss.pipeline.unread_settings import inactive_given
    from wsss.plan.disk_room import check_room
    from wsss.report.run_results import show_results

    ready_to_run(recipe, *spans[0])
    if recipe.path != options.recipe:
        console.print(f"recipe       {recipe.path}", markup=False, soft_wrap=True)
    for line in inactive_given(recipe):
        console.print(f"not read     {line}", markup=False, soft_wrap=True)
    tracker = MlflowTracker(uri=recipe.runtime.tracking_uri, runs=recipe.runtime.runs, console=console)
    make_runs_folder(recipe)
    tracker.import_early()
    runtime, summary = _runtime(recipe.runtime, options.on, console), RunSummary()
    try:
        if len(spans) > 1:  # all of them before the first one runs; a single one is checked by run_recipe
            check_spans(recipe, spans, runtime=runtime)
        for first, last in spans:
            run = partial(run_recipe, runtime=runtime, tracker=tracker, reporter=Reporter(console))
            summary.add(run(recipe, first=first, last=last, check_room=check_room))
        command = open_command(recipe.runtime.tracking_uri, runs=recipe.runtime.runs)
        show_results(recipe, summary, tracker=tracker, console=console, open_command=command)
        tracker.name_page()
    finally:
        runtime.close()
    return 0


def _print(page: Page, options: argparse.Namespace) -> None:
    from wsss.report.printing import print_page

    print_page(page, form=options.form, only=options.table or "")


def _show(options: argparse.Namespace) -> int:
    from wsss.pipeline.dry_recipe import dry_recipe
    from wsss.pipeline.recipe_files import RECIPES, find_file
    from wsss.report.show_recipe import instance_page, recipe_page

    if (cls := _settings_class(options)) is not None:
        from wsss.report.setting_tables import kind_page

        _print(kind_page(options.recipe.name.replace("-", "_"), cls), options)
        return 0
    recipe, absent = dry_recipe(find_file(options.recipe, shipped=RECIPES), options.overrides)
    if options.instance is not None:
        _print(instance_page(recipe, options.instance, changed=options.changed, absent=absent), options)
    else:
        _print(recipe_page(recipe, changed=options.changed, absent=absent), options)
    return 0


def _settings_class(options: argparse.Namespace) -> type | None:
    """The settings class that `wsss show STAGE` names (a kind of stage, recipe or runtime); None for a recipe file."""
    from wsss.stages.registry import STAGES

    name = str(options.recipe).replace("-", "_")
    if options.recipe.exists() or name not in {*STAGES, *_GROUPS}:
        return None
    if options.instance or options.overrides or options.changed:
        raise ValueError(
            f"{options.recipe} is not a recipe, so there are no instances or values to show; --set, --changed and an "
            f"instance need a recipe; name the recipe first: wsss show RECIPE {options.recipe}"
        )
    if name in _GROUPS:
        from wsss.pipeline.recipe import RecipeSettings, RuntimeSettings

        return RecipeSettings if name == "recipe" else RuntimeSettings
    return STAGES[name]


def _results(options: argparse.Namespace) -> int:
    from wsss.report.results_table import results_page

    _print(results_page(_load(options)), options)
    return 0


def _explain(options: argparse.Namespace) -> int:
    from wsss.report.explain import explain

    path = options.output or Path(f"explain-{options.key.replace('/', '_')}.png")
    for line in explain(_load(options), options.key, path):
        print(line)
    print(path)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from wsss.pipeline.dry_recipe import dry_recipe
    from wsss.pipeline.recipe_files import RECIPES, find_file
    from wsss.plan.costs import PlanError
    from wsss.plan.dataset_stats import parse_images
    from wsss.plan.hardware import cluster_of
    from wsss.plan.plan import make_plan
    from wsss.plan.prices import read_prices
    from wsss.plan.render import plan_page

    path = find_file(options.recipe, shipped=RECIPES)
    prices = read_prices(options.prices) if options.prices is not None else None
    if options.images is not None:
        parse_images(options.images)
    try:
        cluster = cluster_of(
            nodes=options.nodes,
            gpus_per_node=options.gpus_per_node,
            gpu=options.gpu,
            cores_per_node=options.cores_per_node,
            network_gbps=options.network_gbps,
            storage_gbps=options.storage_gbps,
        )
    except PlanError:
        dry_recipe(path, options.overrides)  # what is wrong with the recipe is said first
        raise
    plan = make_plan(path, options.overrides, cluster=cluster, images=options.images, measured=options.measured)
    _print(plan_page(plan, prices), options)
    return 0


def _shards(options: argparse.Namespace) -> int:
    from wsss.report.shards_command import run

    return run(options, console=_console())


def _sweep(options: argparse.Namespace) -> int:
    from cluster.session.address import check_place, connecting_line
    from tuning.search_space import load_sweep
    from wsss.pipeline.recipe_files import SWEEPS, find_file

    check_place(options.on)
    sweep, console = load_sweep(find_file(options.sweep, shipped=SWEEPS), options.overrides), _console()
    if options.dry_run:
        from tuning.forecast_page import forecast_page
        from tuning.sweep_forecast import forecast
        from wsss.report.printing import print_page

        print_page(forecast_page(sweep, forecast(sweep)))
        return 0
    console.print(connecting_line(options.on), markup=False)
    from tuning.sweep import run_sweep

    return run_sweep(sweep, place=options.on, console=console)


def _compare(options: argparse.Namespace) -> int:
    from tuning.command import run

    return run(options)


def _use(options: argparse.Namespace) -> int:
    """Commands that use a trained network."""
    from wsss.use.command import run

    if options.command != "export":
        from cluster.session.address import check_place

        check_place(options.on)
    console = _console()
    return run(options, make_runtime=lambda settings: _runtime(settings, options.on, console), console=console)


def _doctor(options: argparse.Namespace) -> int:
    from cluster.doctor.command import doctor

    return doctor(options.runs, start=options.start, as_json=options.as_json)


def _cluster(options: argparse.Namespace) -> int:
    from cluster.command import run

    return run(options)


def _completion(options: argparse.Namespace) -> int:
    from wsss.completion import script

    print(script(options.shell), end="")
    return 0


def _check_submission(options: argparse.Namespace) -> int:
    from wsss.report.submission_check import check

    given = {"samples": options.samples, "split": options.split, "layout": options.format}
    return check(options.file, num_classes=options.num_classes, **given)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "demo": _demo,
    "show": _show,
    "results": _results,
    "explain": _explain,
    "plan": _plan,
    "shards": _shards,
    "sweep": _sweep,
    "leaderboard": _compare,
    "compare": _compare,
    "report": _compare,
    "check-submission": _check_submission,
    "predict-folder": _use,
    "label-folder": _use,
    "export": _use,
    "doctor": _doctor,
    "cluster": _cluster,
    "completion": _completion,
}
"""Command -> its function; the commands of all stages use `_stage`."""
RESUMED = frozenset({"run", "demo", "sweep", "predict-folder", "label-folder"})
"""Commands, besides those of the stages, that go on where they were when they are given again."""


def _parse(words: Sequence[str]) -> argparse.Namespace | None:
    """The options; or None after printing the help, if no command is given."""
    top = parser()
    options = top.parse_args(words)
    if options.command is None:
        top.print_help()
        return None
    if options.command in ("shards", "cluster") and options.action is None:
        top.subparsers()[options.command].print_help()
        return None
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 an error explained by the message, 130 interrupted by Ctrl-C,
    143 by SIGTERM, 141 if nobody reads the output any more."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["__complete"]:
        from wsss.completion import answer

        print(answer(words[1:]), end="")
        return 0
    if (options := _parse(words)) is None:
        return 0
    try:
        with stop_on_sigterm():
            return COMMANDS.get(options.command, _stage)(options)
    except KeyboardInterrupt:
        if reader_is_gone():
            return drop_output()
        print(STOPPED if options.command in RESUMED or options.command not in COMMANDS else ENDED, file=sys.stderr)
        return exit_status()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            return drop_output()
        from wsss.pipeline.error_file import debug_report, error_line

        message = error_line(error)
        if message is None and not isinstance(error, ValueError | RuntimeError | OSError):
            raise  # a bug in the command line itself
        if getattr(options, "debug", False):
            print(debug_report(error), file=sys.stderr)
        print(f"wsss: {message or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
