"""The settings of `predict`: how a trained segmenter segments an image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from wsss.contract.settings import active_unless, active_with, distinct, settings
from wsss.stages.segmenter.views import SegmenterViews
from wsss.stages.settings.crf import CrfSettings

Subset = Literal["none", "flip", "scales", "all"]


@settings
class PredictionSettings(SegmenterViews, CrfSettings):
    """Views, classes that may be predicted, subsets of views to compare, and the CRF."""

    crf_start: ClassVar[str] = "probabilities"

    labels: Annotated[Literal["none", "given"], active_unless("labels", "none")] = "none"
    """`given`: use the images' labels: classes known to be absent from an image are not predicted in it, and an image
    without any class is all background. Use it only for images to train on: evaluate marks the results of such
    predictions as made with labels, and submit refuses them."""
    max_side: Annotated[int, Field(ge=64)] = 2048
    """Longest side of a view in pixels; longer views are scaled down to it."""
    ablation: Annotated[tuple[Subset, ...], AfterValidator(distinct)] = ()
    """Subsets of the views (test-time augmentation) whose label maps are stored with the prediction and measured by
    evaluate: `none` (only the unchanged image), `flip` (with its mirror image), `scales` (without mirror images),
    `all`. A prior of the classifier is that of all views."""
    refine: Literal["crf", "none"] = "none"
    """`crf` refines the merged probabilities with the dense CRF; `none` does not."""
    crf_class_threshold: Annotated[float, Field(gt=0, le=1), active_with("refine", "crf")] = 0.1
    """The CRF uses only classes that are predicted for a pixel or have at least this probability in one."""
