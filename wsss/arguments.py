"""The commands and options of the command line; `wsss.__main__` implements them. A test protects them from changes.

`wsss.completion` completes an argument according to its metavar: RECIPE, INSTANCE, NAME=VALUE, …
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wsss.argument_parser import Parser
from wsss.cluster_arguments import add_cluster
from wsss.comparing_arguments import add_comparing
from wsss.stages.registry import STAGES
from wsss.use_arguments import add_use

_ABOUT = """\
Weakly supervised segmentation: train with image-level labels, predict masks.

  wsss demo                     the whole pipeline on generated images
  wsss show RECIPE              what a recipe would run, and all its settings
  wsss run RECIPE               run it; finished stages are reused
  wsss results RECIPE           its results so far

RECIPE is a TOML file, or the name of one that is shipped, such as toy."""


def stage_commands() -> dict[str, str]:
    """Command -> the kind of stage that it runs; one per kind, including those of other packages."""
    return {kind.replace("_", "-"): kind for kind in STAGES}


def parser() -> Parser:
    """All subcommands and options."""
    stages = textwrap.wrap(
        "  ".join(stage_commands()), 76, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    about_stages = "one stage of a recipe (wsss STAGE RECIPE):\n" + "\n".join(stages)
    top = Parser(prog="wsss", description=_ABOUT, epilog=about_stages)
    top.add_argument("--version", action="version", version=f"wsss {_version()}", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_running(commands)
    _add_showing(commands)
    _add_plan(commands)
    _add_shards(commands)
    add_comparing(commands, _add, _add_form)
    _add_checking(commands)
    add_use(commands, _add, add_place=_add_place, add_overrides=_add_overrides)
    add_cluster(commands, _add)
    _add_completion(commands)
    for name, kind in stage_commands().items():
        stage = _add(
            commands,
            name,
            "",
            f"Run every instance of kind {kind}, each by itself:\nits inputs must be done.",
            f"wsss {name} toy",
        )
        _add_recipe(stage)
        _add_place(stage)
    return top


def _version() -> str:
    try:
        return version("wsss")
    except PackageNotFoundError:
        return "(not installed)"


def _add(commands: argparse._SubParsersAction[Parser], name: str, text: str, about: str, *examples: str) -> Parser:
    """A subcommand; `text` is its line in the list of commands; if empty, it is not listed."""
    shown = "".join(f"\n  {example}" for example in examples)
    epilog = f"example:{shown}" if examples else None
    if text:
        return commands.add_parser(name, help=text, description=about, epilog=epilog)
    return commands.add_parser(name, description=about, epilog=epilog)


def _add_running(commands: argparse._SubParsersAction[Parser]) -> None:
    run = _add(
        commands,
        "run",
        "run a recipe",
        "Run the instances of a recipe in order. Finished instances are reused, so the\n"
        "same command resumes a run that was stopped.",
        "wsss run toy --set make_pseudo_labels.background_threshold=0.3",
    )
    _add_recipe(run)
    run.add_argument("--from", dest="first", metavar="INSTANCE", help="first instance to run")
    run.add_argument("--to", dest="last", metavar="INSTANCE", help="last instance to run")
    _add_place(run)
    demo = _add(
        commands,
        "demo",
        "run the toy recipe",
        "Run the whole pipeline on generated images, then print its results. Nothing is\ndownloaded.",
        "wsss demo",
    )
    demo.set_defaults(recipe=None)
    _add_overrides(demo)
    _add_place(demo)
    sweep = _add(
        commands,
        "sweep",
        "search settings with Ray Tune",
        "Try settings of a recipe, or every combination of some, and report the best.",
        "wsss sweep irnet_thresholds",
        "wsss sweep irnet_thresholds --dry-run     what each trial would execute",
    )
    sweep.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep's TOML file, or the name of a shipped one")
    _add_overrides(sweep)
    sweep.add_argument("--dry-run", action="store_true", help="print what each trial would execute, and how long")
    _add_place(sweep)


def _add_showing(commands: argparse._SubParsersAction[Parser]) -> None:
    show = _add(
        commands,
        "show",
        "settings, and what would run",
        "Show a recipe: its instances, what is done, what would run, and every setting\n"
        "with the origin of its value. Or explain the settings of one instance, of a\n"
        "kind of stage, of recipe or of runtime. Nothing is run.",
        "wsss show toy                     the recipe",
        "wsss show toy --changed           only settings that differ from their default",
        "wsss show toy make_seeds          one instance, each setting explained",
        "wsss show make_seeds              a kind of stage, without any recipe",
    )
    show.add_argument("recipe", type=Path, metavar="RECIPE|STAGE", help="a recipe, a kind of stage, recipe or runtime")
    show.add_argument(
        "instance", nargs="?", metavar="INSTANCE", help="one instance of the recipe, or recipe, or runtime"
    )
    _add_overrides(show)
    _add_runs(show)
    show.add_argument("--changed", action="store_true", help="only settings that differ from their default")
    _add_form(show, tables=("instances", "settings"), main="settings")
    results = _add(
        commands,
        "results",
        "the results of a recipe so far",
        "Print the tables that `wsss run` ends with, for finished stages, without\nrunning anything.",
        "wsss results toy --csv",
    )
    _add_recipe(results)
    _add_runs(results)
    _add_form(results, tables=("results", "classifiers"), main="results")

    explain = _add(
        commands,
        "explain",
        "one image through every stage",
        "Draw one image as every finished stage of a recipe left it, with the values\n"
        "that made it, into one PNG: maps, seeds, boundary map, walk, scores, labels\n"
        "before and after the CRF, predictions by view, truth and errors.",
        "wsss explain toy val_00000 --output val_00000.png",
    )
    explain.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file, or the name of a shipped recipe")
    explain.add_argument("key", metavar="KEY", help="the image's key, as wsss compare and the contact sheets show it")
    _add_overrides(explain)
    _add_runs(explain)
    explain.add_argument("--output", type=Path, metavar="FILE", help="default: explain-KEY.png in the current folder")


def _add_plan(commands: argparse._SubParsersAction[Parser]) -> None:
    plan = _add(
        commands,
        "plan",
        "what a recipe would cost on a cluster",
        "Estimate hours, GPU-hours, disk and network of a recipe on a cluster, without\n"
        "running it. Neither the data nor the cluster need to be available.",
        "wsss plan lid --nodes 4 --gpus-per-node 8 --gpu A100",
    )
    _add_recipe(plan)
    plan.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of the cluster (default: 1)")
    plan.add_argument(
        "--gpus-per-node", type=int, default=8, metavar="G", help="GPUs of a node (default: 8); 0: CPUs only"
    )
    plan.add_argument("--gpu", metavar="GPU", help="the GPU, such as A100; a wrong name lists all")
    plan.add_argument("--images", metavar="N", help="training images, or SPLIT=N,... (default: of the recipe's data)")
    plan.add_argument(
        "--measured",
        type=Path,
        metavar="FOLDER",
        help="folder of a small run of the same recipe (its runtime.runs): replaces the costs per image of costs.toml",
    )
    plan.add_argument(
        "--cores-per-node", type=int, metavar="C", help="cores of a node (default: 12 per GPU, 16 without GPUs)"
    )
    plan.add_argument(
        "--network-gbps", type=float, default=100.0, metavar="B", help="Gbit/s of a node to the others (default: 100)"
    )
    plan.add_argument(
        "--storage-gbps", type=float, default=20.0, metavar="B", help="Gbit/s of the shared folder (default: 20)"
    )
    plan.add_argument(
        "--prices",
        type=Path,
        metavar="FILE",
        help="prices of nodes, a TOML file with [nodes.NAME] price, cores, gpus: adds what each stage costs",
    )
    _add_form(plan, tables=("stages", "prices", "bottlenecks", "figures"), main="stages")


def _add_shards(commands: argparse._SubParsersAction[Parser]) -> None:
    shards = _add(commands, "shards", "inspect shards", "Inspect layers of shards.")
    actions = shards.add_subparsers(dest="action", metavar="ACTION", title="actions")
    texts = {
        "info": ("counts and sizes", "Print counts and sizes, from the index alone."),
        "lint": ("read and check everything", "Read every file and print all faults; status 1 if there are any."),
        "preview": ("a picture", "Draw 40 images from the whole layer."),
    }
    for name, (text, about) in texts.items():
        action = _add(actions, name, text, about, f"wsss shards {name} runs/store/build_shards-0123456789abcdef")
        action.add_argument("paths", nargs="+", metavar="PATH", help="folders of layers, or their addresses")
        action.set_defaults(pictures=None)
        if name == "info":
            action.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw histograms, into this folder")
            _add_form(action, tables=("splits", "classes"), main="splits")
        if name == "preview":
            action.add_argument(
                "--pictures",
                type=Path,
                default=Path(),
                metavar="FOLDER",
                help="output folder (default: the current one)",
            )


def _add_checking(commands: argparse._SubParsersAction[Parser]) -> None:
    check = _add(
        commands,
        "check-submission",
        "check a submission",
        "Check a zip of predicted masks; status 1 if anything is wrong.",
        "wsss check-submission runs/toy/submit-01234567.zip --num-classes 5",
    )
    check.add_argument("file", type=Path, metavar="FILE", help="the zip")
    check.add_argument("--samples", type=Path, metavar="FOLDER", help="the samples layer whose images are expected")
    check.add_argument("--split", default="val", metavar="SPLIT", help="split of that layer (default: val)")
    check.add_argument(
        "--num-classes", type=int, default=200, metavar="N", help="highest class id allowed (default: 200)"
    )
    check.add_argument(
        "--format", choices=("lid", "imagenet_s"), default="lid", help="as the setting submit.format (default: lid)"
    )


def _add_completion(commands: argparse._SubParsersAction[Parser]) -> None:
    completion = _add(
        commands,
        "completion",
        "a script that completes this command line",
        "Print a script that lets a shell complete commands, options, recipes and\nsettings with the Tab key.",
        'eval "$(wsss completion bash)"             in ~/.bashrc',
        'eval "$(wsss completion zsh)"              in ~/.zshrc, after compinit',
        "wsss completion fish | source              in ~/.config/fish/config.fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


def _add_recipe(command: Parser) -> None:
    command.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file, or the name of a shipped recipe")
    _add_overrides(command)


def _add_overrides(command: Parser) -> None:
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, such as make_seeds.refine=none; may be repeated",
    )


def _add_runs(command: Parser) -> None:
    """The folder of runs of a command that reads what a recipe has made."""
    command.add_argument(
        "--runs",
        type=Path,
        action=_SetRuns,
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="folder of runs; the same as --set runtime.runs=FOLDER",
    )


class _SetRuns(argparse.Action):
    """Adds the folder to the overrides of `--set`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        namespace.overrides = [*namespace.overrides, f"runtime.runs={json.dumps(str(values))}"]


def _add_place(command: Parser, *, default: str = "ray") -> None:
    texts = {"ray": "this machine", "local": "this process, no Ray"}
    texts[default] += ", the default"
    ray, local = texts["ray"], texts["local"]
    command.add_argument(
        "--on",
        default=default,
        metavar="PLACE",
        help=f"ray ({ray}), local ({local}), auto (on a node of a cluster), HOST:PORT or ray://HOST:PORT",
    )
    command.add_argument("--debug", action="store_true", help="on failure, print the whole traceback")


def _add_form(command: Parser, *, tables: Sequence[str] = (), main: str = "") -> None:
    """How tables are printed. `tables`: their names, if there are several; `main`: the one that --csv prints."""
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="print JSON")
    csv_text = f"print one table as CSV ({main}, or --table)" if tables else "print CSV"
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help=csv_text)
    command.set_defaults(form="text", table="")
    if tables:
        command.add_argument("--table", choices=tables, metavar="TABLE", help=f"only this table: {', '.join(tables)}")
