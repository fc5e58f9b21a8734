"""Reference pages that are read from the code: commands, settings, and the Python interface."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from wsss.argument_parser import Parser
from wsss.arguments import parser
from wsss.contract.runtime import RuntimeSettings
from wsss.pipeline.recipe import RecipeSettings
from wsss.report.setting_tables import settings_of
from wsss.stages.registry import STAGES

ROOT = Path(__file__).resolve().parents[1]
PYTHON_PAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "shards": (
        "Reading and writing layers: records, shards, data sets.",
        ("records", "layer", "reader", "writer", "opened", "codec", "taxonomy", "sources.source"),
    ),
    "wsss": (
        "Recipes in Python, and what a new stage or a new objective has to offer.",
        (
            *("pipeline.recipe", "pipeline.run", "contract.stage", "contract.slots", "contract.settings"),
            *("contract.fit", "contract.shard_workers", "contract.counts", "contract.cost", "tasks.task"),
        ),
    ),
    "wsss.ops": ("The computations of the papers, as functions of tensors that import torch alone.", ()),
    "wsss.losses": ("Losses, as functions of logits.", ()),
    "tuning": (
        "Sweeps, the leaderboard and comparisons.",
        ("search_space", "sweep", "sweep_result", "leaderboard", "compare"),
    ),
}
"""Package -> what its page says first, and the modules that it shows; all modules of the package if none is named."""


def reference_pages() -> dict[str, str]:
    """Address on the site -> Markdown."""
    pages = {"reference/commands.md": commands_page(), "reference/settings.md": settings_page()}
    return pages | {f"reference/{package}.md": python_page(package) for package in PYTHON_PAGES}


def leaf_commands(command: Parser, prefix: str = "wsss") -> Iterator[tuple[str, Parser]]:
    """Every command that does something by itself, such as `wsss shards info`, with its parser."""
    for name, nested in command.subparsers().items():
        if nested.subparsers():
            yield from leaf_commands(nested, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", nested


def commands_page() -> str:
    """The help of every command, 80 columns wide, as the terminal shows it."""
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "80"
    try:
        parts = [f"## {name}\n\n```text\n{one.format_help()}```\n" for name, one in leaf_commands(parser())]
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width
    about = "What `wsss COMMAND --help` prints, for every command. A test keeps commands and options as they are.\n"
    return "\n".join(["# Commands\n", about, *parts])


def settings_page() -> str:
    """Every setting of every kind of stage, of [recipe] and of [runtime], with its meaning."""
    about = (
        "What `wsss show KIND` prints, for every kind of stage. A setting is written `INSTANCE.NAME` everywhere: in\n"
        "`--set make_cams.flip=false`, in a sweep and in MLflow. In a recipe it stands in the table\n"
        "`[stages.INSTANCE]`. `wsss show RECIPE` prints the values of a recipe, and where each of them was set.\n"
    )
    groups: dict[str, type] = {"recipe": RecipeSettings, "runtime": RuntimeSettings}
    groups |= {kind: STAGES[kind] for kind in STAGES}
    return "\n".join(["# Settings\n", about, *(_settings_table(name, cls) for name, cls in groups.items())])


def _settings_table(name: str, cls: type) -> str:
    about = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    rows = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    for one in settings_of(cls).values():
        condition = f" *Read only with {_cell(one.condition)}.*" if one.condition else ""
        anchor = f"{{ #{name}.{one.name} }}"
        cells = (
            f"`{one.name}`{anchor}",
            _cell(one.default_cell.text),
            _cell(one.allowed),
            _cell(one.meaning) + condition,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"## {name}\n", f"{_cell(about)}\n", *rows, ""])


def _cell(text: str) -> str:
    """Text inside a cell of a Markdown table: nothing in it is read as markup, except code spans."""
    parts = text.split("`")
    parts[::2] = [
        part.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("[", "\\[")
        for part in parts[::2]
    ]
    return "`".join(parts).replace("|", "\\|").replace("\n", " ")


def python_page(package: str) -> str:
    """The modules of a package, for mkdocstrings."""
    about, modules = PYTHON_PAGES[package]
    if not modules:
        folder = ROOT / package.replace(".", "/")
        modules = tuple(sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__"))
    return "\n".join([f"# {package}\n", f"{about}\n", *(f"::: {package}.{module}\n" for module in modules)])
