"""The settings of `make_prototypes`: which features are clustered, and which clusters are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from wsss.contract.settings import active_unless, settings
from wsss.contract.stage import Instance, Reduce, Splits

_Share = Annotated[float, Field(gt=0, lt=1)]


@settings
class PrototypeSettings(Reduce):
    """A stage that computes prototypes of every class, which `wsss.stages.classifier.prototype_file` writes and
    reads."""

    computes: ClassVar[str] = "class prototypes"

    splits: Splits = ("train",)
    """Splits whose images are read."""
    images_per_class: Annotated[int, Field(ge=1)] = 100
    """Images of each class whose features are clustered (all that it has, if these are fewer); which ones depends on
    their keys and the recipe's seed (LPCAM: 100 on COCO, all on VOC)."""
    positions_per_image: Annotated[int, Field(ge=1)] = 16
    """Features of an image and a class that are clustered, drawn among the positions where its map is above
    foreground_threshold, and as many where it is below (LPCAM: all). The driver holds 2 x images_per_class x this
    number of features of every class, of 2 bytes a channel: with 2,048 channels and the defaults 13 MB a class."""
    foreground_threshold: _Share = 0.1
    """Positions whose normalised map is above this are features of the class, those below it of its context (LPCAM:
    0.1 on VOC, 0.25 on COCO)."""
    num_clusters: Annotated[int, Field(ge=1)] = 12
    """Clusters of the features of a class, and of those of its context (LPCAM: 12 on VOC, 20 on COCO)."""
    num_iterations: Annotated[int, Field(ge=1)] = 20
    """Iterations of k-means; it stops earlier if no feature changes its cluster."""
    prototype_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Clusters of a class's features are kept as its prototypes if the classifier gives their centre more than this
    probability of the class (a softmax over the learned classes). If none has more, the most probable one is kept."""
    context_lower_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Clusters of a class's context are kept as context prototypes if the classifier gives their centre more than this
    probability of the class, and less than `context_upper_threshold` (LPCAM: 0.05 on VOC, 0 on COCO)."""
    context_upper_threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The probability below which clusters of a class's context are kept; above it they are taken for the class itself
    (LPCAM: 0.9 on VOC, 0.5 on COCO)."""
    long_side: Annotated[int, Field(ge=0), active_unless("long_side", 0)] = 0
    """The classifier sees the image with a longer side of this many pixels; 0: the image's own size. No side gets
    shorter than 32 pixels."""
    max_side: Annotated[int, Field(ge=64)] = 2048
    """Longest side of an image in pixels; longer images are scaled down to it."""


def prototypes_path(instance: Instance) -> Path:
    """Path of the prototypes that an instance computes."""
    return instance.path / "prototypes.safetensors"
