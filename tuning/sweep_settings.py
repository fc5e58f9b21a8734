"""The table `[sweep]` of a sweep file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from wsss.contract.settings import settings

MEAN_IOU, SECONDS = "mean_iou", "seconds"
DIRECTIONS = {MEAN_IOU: "max", SECONDS: "min"}
"""Objective -> what the search looks for."""


@settings
class SweepSettings:
    """The table `[sweep]`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    """Names the run in MLflow and the folder of results."""
    recipe: Path
    """The recipe that the trials vary: a path relative to the sweep file, or the name of a shipped recipe (`toy`)."""
    metric: str
    """The `evaluate` instance whose mean IoU is maximised. It measures label maps, or score maps if the space names the
    `background_threshold` to apply to them: then no trial makes labels, and a trial takes milliseconds."""
    split: str = "val"
    """Split on which the mean IoU is measured."""
    method: Literal["search", "grid"] = "search"
    """`search`: Optuna's search, which starts with random settings; `grid`: every combination of the values in [space]
    and [cases], once."""
    num_trials: Annotated[int, Field(ge=1)] = 12
    """search: how many settings are tried. A grid has one trial per combination."""
    max_concurrent: Annotated[int, Field(ge=1)] = 1
    """Trials that run at the same time; with more than 1 the search depends on which trial ends first."""
    seed: Annotated[int, Field(ge=0)] = 0
    """search: the seed of the search; the seed of the recipe is separate."""
    to: str = ""
    """A further instance that every trial runs, with everything it reads; none if empty."""
    objectives: Annotated[tuple[Literal["mean_iou", "seconds"], ...], Field(min_length=1)] = ("mean_iou",)
    """What the search looks for: a high `mean_iou` of the metric; few `seconds` of the stages that depend on the
    searched settings, as recorded when they were executed. With both, no single setting is the best, and the table
    marks the trials that no other one beats in both."""
    stop_by: str = ""
    """A training whose validation after an epoch stops trials that are worse than others were at that epoch (ASHA); it
    needs `validate_every`. None if empty: every trial trains to its end."""
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    """stop_by: epochs that every trial trains."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """stop_by: of the trials that reach a rung, one in so many trains on; the next rung is so many times as far."""

    def __post_init__(self) -> None:
        if "mean_iou" not in self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives = {list(self.objectives)}: name mean_iou, and each objective once")
