"""Runs the commands of `wsss.use_arguments`."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from wsss.pipeline.recipe_files import RECIPES, find_file
from wsss.use.export import export
from wsss.use.folders import Folders, MakeRuntime, label_folder, predict_folder, summary_lines


def run(options: argparse.Namespace, *, make_runtime: MakeRuntime, console: Console) -> int:
    """Run the command that was parsed; returns the exit status."""
    if options.command == "export":
        return _export(options)
    return _folder(options, make_runtime=make_runtime, console=console)


def _folder(options: argparse.Namespace, *, make_runtime: MakeRuntime, console: Console) -> int:
    given = Folders(
        root=options.folder,
        out=options.out,
        overrides=options.overrides,
        overlays=options.overlay,
        coco=options.coco,
        make_runtime=make_runtime,
        console=console,
    )
    if options.command == "predict-folder":
        summary = predict_folder(given, model_path=options.model, settings=_views(options))
    else:
        summary = label_folder(
            given,
            model_path=options.model,
            labels=options.labels,
            affinity=options.affinity,
            recipe=find_file(options.recipe, shipped=RECIPES) if options.recipe else None,
            split=options.split,
        )
    for line in summary_lines(summary, options.out):
        print(line)
    return 0


def _export(options: argparse.Namespace) -> int:
    for line in export(
        options.model, onnx=options.onnx, smp=options.smp, pictures=options.pictures, weights=options.weights
    ):
        print(line)
    return 0


def _views(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of predict that have options of their own; one view unless others are asked for."""
    try:
        scales = tuple(float(scale) for scale in (options.scales or "1").split(","))
    except ValueError:
        raise ValueError(
            f"--scales {options.scales}: write numbers with commas between them, such as 0.5,1,2"
        ) from None
    return {"scales": scales, "flip": options.flip, "refine": "crf" if options.crf else "none"}
