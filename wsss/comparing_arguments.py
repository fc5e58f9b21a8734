"""The arguments of `wsss leaderboard`, `wsss compare` and `wsss report`; `tuning.command` implements them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from wsss.argument_parser import Parser

Add = Callable[..., Parser]
"""Adds a subcommand: its parent, name, line in the list, description, and examples."""
COMPARED = ("overall", "classes", "tests", "agreement", "moved", "settings", "lineage", "images", "image_scores")
"""The tables of `wsss compare`."""


def add_comparing(commands: argparse._SubParsersAction[Parser], add: Add, add_form: Callable[..., None]) -> None:
    """`add`, `add_form`: as in `wsss.arguments`."""
    board, compare, report = _leaderboard(commands, add), _compare(commands, add), _report(commands, add)
    for command in (board, compare, report):
        command.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="default: runs")
        command.add_argument(
            "--tracking-uri", default="", metavar="URI", help="MLflow's address (default: the database in --runs)"
        )
    add_form(board)
    add_form(compare, tables=COMPARED, main="classes")


def _leaderboard(commands: argparse._SubParsersAction[Parser], add: Add) -> Parser:
    board = add(
        commands,
        "leaderboard",
        "evaluated runs, best first",
        "List the evaluations that MLflow holds, by mean IoU, and for reference the\n"
        "official table of LID 2020 (instance: published). Those of images whose labels\n"
        "were given, such as pseudo labels, are listed with --all.",
        "wsss leaderboard --all --csv",
        "wsss leaderboard --where 'recipe=toy*' --sort finished",
    )
    board.add_argument("--all", action="store_true", help="also evaluations of images whose labels were given")
    board.add_argument(
        "--sort", default="mean_iou", metavar="COLUMN", help="order by a column of --csv; with --sort=-COLUMN reversed"
    )
    board.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only rows such as 'mean_iou>=0.5' or 'recipe=toy*'; may be repeated",
    )
    board.add_argument("--no-published", action="store_true", help="without the rows of LID 2020's official table")
    return board


def _compare(commands: argparse._SubParsersAction[Parser], add: Add) -> Parser:
    compare = add(
        commands,
        "compare",
        "results over the same images, image by image",
        "Compare results with the first one: scores and classes with intervals and tests\n"
        "over the images, confusion that moved, settings that differ, lineage, and the\n"
        "images that changed most. Without masks: how far they agree.",
        "wsss compare toy:evaluate_single_view toy:evaluate",
        "wsss compare 1a2b3c4d 5e6f7a8b --pictures .",
        "wsss compare old/results.zip new/results.zip",
    )
    compare.add_argument("first", metavar="A", help="recipe, recipe:instance, id of a pipeline or run, or a zip")
    compare.add_argument("others", nargs="+", metavar="B", help="the results to compare with it")
    compare.add_argument(
        "--common", action="store_true", help="if the images differ, compare on those that all results have"
    )
    compare.add_argument(
        "--recorded", action="store_true", help="only the tables that MLflow holds: no label maps are read"
    )
    compare.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the images that changed most")
    return compare


def _report(commands: argparse._SubParsersAction[Parser], add: Add) -> Parser:
    report = add(
        commands,
        "report",
        "a page about some results, to send",
        "Write one HTML file about evaluations, without network or other files: scores,\n"
        "classes, curves, confusion, images with errors, settings and lineage; several\n"
        "results are also compared.",
        "wsss report toy",
        "wsss report toy:evaluate_single_view toy:evaluate --output views.html",
    )
    report.add_argument("names", nargs="+", metavar="RUN", help="recipe, recipe:instance, id of a pipeline or run")
    report.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    return report
