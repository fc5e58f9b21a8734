"""How a trained segmenter segments an image: the settings of `predict`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from wsss.contract.settings import active_unless, active_with, settings
from wsss.stages.segmenter.views import SegmenterViews
from wsss.stages.settings.crf import CrfSettings

Subset = Literal["none", "flip", "scales", "all"]


def _distinct(subsets: tuple[Subset, ...]) -> tuple[Subset, ...]:
    if len(set(subsets)) < len(subsets):
        repeated = next(subset for subset in subsets if subsets.count(subset) > 1)
        raise ValueError(f"subsets must be unique, got {repeated!r} twice")
    return subsets


@settings
class PredictionSettings(SegmenterViews, CrfSettings):
    """Views, classes that may be predicted, subsets to compare, and the CRF after them."""

    crf_start: ClassVar[str] = "probabilities"

    labels: Annotated[Literal["none", "given"], active_unless("labels", "none")] = "none"
    """`given`: classes known to be absent from an image are not predicted there, and an image without any class is all
    background. For images that something is trained on: measured, such predictions count as made with labels given, and
    submit does not take them."""
    max_side: Annotated[int, Field(ge=64)] = 2048
    """Longest side of a view in pixels; views that would be longer are made as long as this."""
    ablation: Annotated[tuple[Subset, ...], AfterValidator(_distinct)] = ()
    """Subsets of the views whose label maps are kept beside the prediction and measured by evaluate: none (the image as
    it is), flip (with its mirror image), scales (without mirror images), all."""
    refine: Literal["crf", "none"] = "none"
    """Refine by the dense CRF, from the merged probabilities, or leave the labels as the views make them."""
    crf_class_threshold: Annotated[float, Field(gt=0, le=1), active_with("refine", "crf")] = 0.1
    """The CRF sees the classes that win a pixel, and those whose probability reaches this in some pixel."""
