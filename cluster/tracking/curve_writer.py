"""Sends the curve of a training to its run, while the training writes it: each point once, in the order of steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.tracking.mlflow_values import key
from cluster.tracking.run_content import RunContent
from wsss.contract.curve import curve_files, read_points

if TYPE_CHECKING:
    from mlflow.entities import Run

SENT = "wsss.points_sent"
"""A tag for each file of points: how many of them the run has. A resumed training writes the same points again."""


def write_curves(content: RunContent, run: Run, folder: Path) -> None:
    """Send the points in an instance's folder that the run does not have yet.

    If this is interrupted, the same points are sent again with the same step, time and value, which MLflow stores once.
    """
    for file in curve_files(folder):
        tag = key(f"{SENT}.{file.stem}")
        first = int(run.data.tags.get(tag, "0"))
        if points := read_points(file, first=first):
            content.points(run.info.run_id, points)
            content.tags(run.info.run_id, {tag: str(first + len(points))})
