"""Sweeps over the background threshold that make no labels: a trial reads the counts of the score maps.

`evaluate` of a layer of scores counts pixels by score bin, once for all thresholds. If a sweep's metric is such an
instance, its space names the `background_threshold` of a `make_pseudo_labels` that reads the same layer, and a trial of
a threshold takes milliseconds. The result equals, to the pixel, that of making the labels without a CRF and evaluating
them. With a CRF, each threshold would run the CRF on all images, so the metric has to measure the labels instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shards.records import CamRecord, ScoreRecord
from tuning.dimensions import Choices, Range
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe, RecipeError
from wsss.stages.evaluate import Evaluate
from wsss.stages.make_pseudo_labels import MakePseudoLabels

THRESHOLD = "background_threshold"


def labels_of(metric: Instance, recipe: Recipe, searched: Iterable[str]) -> str:
    """The `make_pseudo_labels` instance whose threshold is searched on the counts of `metric`.

    Empty if `metric` measures label maps: then nothing is read from counts. Raises `RecipeError` if it measures score
    maps and the searched settings contain no threshold for them, or if the labels need more than a threshold.
    """
    maps = metric.inputs["records"]
    if maps.layer.kind not in (CamRecord.kind, ScoreRecord.kind):
        return ""
    names = [name.rpartition(".") for name in searched]
    readers = [one for one in recipe.instances if isinstance(one.stage, MakePseudoLabels)]
    readers = [one for one in readers if one.inputs["scores"].name == maps.name]
    found = [one for one in readers if (one.name, ".", THRESHOLD) in names]
    wanted = " or ".join(f"{one.name}.{THRESHOLD}" for one in readers)
    if len(found) != 1:
        raise RecipeError(
            f"sweep.metric = {metric.name!r} measures the score maps of {maps.name}, which need a threshold; "
            + (f"search {wanted}" if readers else f"no make_pseudo_labels of this recipe reads {maps.name}")
            + ", or measure label maps"
        )
    labels = found[0]
    _check_labels(labels, metric)
    if others := [
        f"{labels.name}.{setting}" for name, _, setting in names if name == labels.name != setting != THRESHOLD
    ]:
        raise RecipeError(
            f"space.{others[0]}: {metric.name} measures score maps, and {labels.name} does not run in this sweep; "
            f"only its {THRESHOLD} can be searched"
        )
    return labels.name


_COUNTED: tuple[tuple[str, Any, str], ...] = (
    ("refine", "none", "each threshold would run the CRF on all images"),
    ("background", "threshold", "it has no threshold"),
    ("image_threshold", "given", "every image has a threshold of its own"),
    ("class_thresholds", {}, "these classes have thresholds of their own"),
)
"""Settings of labels that counts equal, and what is different with other values."""


def _check_labels(labels: Instance, metric: Instance) -> None:
    assert isinstance(labels.stage, MakePseudoLabels)
    if isinstance(metric.stage, Evaluate) and metric.stage.rule != "threshold":
        raise RecipeError(
            f"{metric.name}.rule = {metric.stage.rule!r} counts by theta, but {labels.name}.{THRESHOLD} is a threshold "
            f"of scores; remove {metric.name}.rule to search it"
        )
    for setting, wanted, why in _COUNTED:
        if (value := getattr(labels.stage, setting)) != wanted:
            raise RecipeError(
                f"{labels.name}.{setting} = {value!r}: {why}, but sweep.metric = {metric.name!r} only counts scores; "
                f"set {labels.name}.{setting} = {wanted!r} under [fixed], or measure the labels instead"
            )


def check_bins(name: str, dimension: Range | Choices) -> None:
    """Raise `RecipeError` if a threshold of this line of [space] is not a boundary between score bins."""
    from wsss.ops.threshold_curve import NUM_BINS, bin_of  # imports torch: only sweeps of counts need it

    if isinstance(dimension, Range) and dimension.step is None:
        raise RecipeError(f"space.{name}: counts exist only for thresholds i/{NUM_BINS}; give step = {1 / NUM_BINS}")
    values = dimension.ends
    if isinstance(dimension, Range) and dimension.step is not None:
        values = (*values, dimension.low + dimension.step)
    try:
        for value in values:
            bin_of(value)  # type: ignore[arg-type]
    except ValueError as error:
        raise RecipeError(f"space.{name}: {error}") from None
