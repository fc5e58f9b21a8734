"""The words of the command line; `wsss.__main__` says what they do. A test freezes them."""

from __future__ import annotations

import argparse
from pathlib import Path

STAGE_COMMANDS = (
    "build-shards",
    "train-classifier",
    "make-cams",
    "make-seeds",
    "train-affinity",
    "make-scores",
    "make-pseudo-labels",
    "make-instance-labels",
    "train-ancillary",
    "train-correction",
    "train-segmenter",
    "make-segmenter-maps",
    "predict",
    "evaluate",
    "submit",
)
"""One per kind of stage; a test holds them equal to the registry, which would take torch to import."""


def parser() -> argparse.ArgumentParser:
    """All subcommands and options."""
    top = argparse.ArgumentParser(prog="wsss", description="Image-level labels into segmentations.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a recipe; what is done is kept")
    _add_recipe(run)
    run.add_argument("--from", dest="first", metavar="NAME", help="first instance to run")
    run.add_argument("--to", dest="last", metavar="NAME", help="last instance to run")
    _add_place(run)
    show = commands.add_parser(
        "show", help="instances, settings and where each came from, what is done, what would run"
    )
    _add_recipe(show)
    _add_plan(commands.add_parser("plan", help="hours, GPU-hours, disk and network of a recipe on a cluster, on paper"))
    demo = commands.add_parser("demo", help="the toy recipe with everything on defaults")
    demo.set_defaults(recipe=None)
    _add_overrides(demo)
    _add_place(demo)
    for name in STAGE_COMMANDS:
        stage = commands.add_parser(name, help=f"run the {name.replace('-', '_')} instances of a recipe")
        _add_recipe(stage)
        _add_place(stage)
    _add_shards(commands.add_parser("shards", help="look into shards"))
    sweep = commands.add_parser("sweep", help="search settings with Ray Tune")
    sweep.add_argument("sweep", type=Path, metavar="SWEEP", help="a file of tuning/sweeps")
    _add_overrides(sweep)
    _add_place(sweep)
    _add_reading(commands)
    return top


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe's TOML file")
    _add_overrides(command)


def _add_plan(plan: argparse.ArgumentParser) -> None:
    _add_recipe(plan)
    plan.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of the cluster (default: 1)")
    plan.add_argument(
        "--gpus-per-node", type=int, default=8, metavar="G", help="GPUs of a node (default: 8); 0 plans on cores alone"
    )
    plan.add_argument("--gpu", metavar="NAME", help="the GPU, such as A100; a wrong name lists those that are known")
    plan.add_argument("--images", metavar="N", help="training images, or SPLIT=N,... (default: of the recipe's data)")
    plan.add_argument(
        "--cores-per-node", type=int, metavar="C", help="cores of a node (default: 12 per GPU, 16 without GPUs)"
    )
    plan.add_argument(
        "--network-gbps", type=float, default=100.0, metavar="B", help="Gbit/s of a node to the others (default: 100)"
    )
    plan.add_argument(
        "--storage-gbps", type=float, default=20.0, metavar="B", help="Gbit/s of the shared folder (default: 20)"
    )


def _add_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="change one dotted setting"
    )


def _add_place(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--on",
        default="ray",
        metavar="PLACE",
        help="ray (this machine, the default), local (this process), auto (from a node of a cluster), HOST:PORT or "
        "ray://HOST:PORT",
    )
    command.add_argument(
        "--debug", action="store_true", help="where it fails, print the whole traceback of the process that failed"
    )


def _add_shards(shards: argparse.ArgumentParser) -> None:
    actions = shards.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (("info", "counts and sizes"), ("lint", "read and check everything"), ("preview", "a picture")):
        action = actions.add_parser(name, help=text)
        action.add_argument("paths", nargs="+", metavar="PATH", help="folders of layers, or their addresses")
        action.set_defaults(pictures=None)
        if name == "info":
            action.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw histograms, into this folder")
        if name == "preview":
            action.add_argument(
                "--pictures", type=Path, default=Path(), metavar="FOLDER", help="where to (default: the current one)"
            )


def _add_reading(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    board = commands.add_parser("leaderboard", help="all evaluated runs, best first")
    board.add_argument("--all", action="store_true", help="also rows that were given image labels")
    compare = commands.add_parser("compare", help="two evaluations, class by class")
    compare.add_argument("first", metavar="A", help="run id, recipe, or recipe:instance")
    compare.add_argument("second", metavar="B", help="the other one")
    for command in (board, compare):
        command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
        command.add_argument(
            "--tracking-uri", default="", help="MLflow's address; the one in the runs folder if not given"
        )
    check = commands.add_parser("check-submission", help="say what is wrong with a results.zip")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--samples", type=Path, metavar="LAYER", help="the samples layer whose images are expected")
    check.add_argument("--split", default="val", help="split of that layer (default: val)")
    check.add_argument("--num-classes", type=int, default=200, help="highest class id allowed (default: 200)")
