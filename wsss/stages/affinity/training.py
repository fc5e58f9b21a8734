"""The settings that every affinity network training has, which stages that use the trained network read."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wsss.contract.settings import active_unless, active_with, settings
from wsss.data.augment import SizeRange
from wsss.stages.settings.encoder import EncoderSource

_GRID_STRIDES = {"irnet": 4, "affinitynet": 8}


@settings
class AffinityTraining(EncoderSource):
    """A training that produces a `wsss.models.irnet.IRNet` or a `wsss.models.affinitynet.AffinityNet`."""

    trains: ClassVar[str] = "affinity network"

    network: Literal["irnet", "affinitynet"] = "irnet"
    """`irnet`: predicts boundaries and displacements at stride 4; `affinitynet`: computes affinities from features at
    stride 8."""
    radius: Annotated[int, Field(ge=2)] = 10
    """Pixel pairs nearer than this are compared, in pixels of the network's grid (IRNet: 10; AffinityNet: 5)."""
    grid_labels: Annotated[
        Literal["pooled_scores", "pixels"],
        active_with("network", "affinitynet"),
        active_unless("grid_labels", "pixels"),
    ] = "pooled_scores"
    """affinitynet: how the cells of the network's grid are labelled. `pooled_scores`: the scores of the seeds, which
    make_seeds stores with rule = "exponents" and keep_scores = true, are averaged over each cell and then compared, as
    published; `pixels`: a cell has the seed of its middle pixel, for seeds by any rule."""
    crop_size: Annotated[int, Field(ge=32, multiple_of=8)] = 512
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (256, 768)
    """Range from which the longer side is drawn before cropping, in pixels."""
    augmentation: Annotated[Literal["weak", "strong"], active_unless("augmentation", "weak")] = "weak"
    """`weak`: random scale, flip and crop; `strong`: also rotation, elastic deformation, noise, and changes of tone,
    sharpness and colour (NoPeopleAllowed's list)."""

    colour_jitter: Annotated[
        float, Field(ge=0, le=1), active_with("augmentation", "weak"), active_unless("colour_jitter", 0.0)
    ] = 0.0
    """weak: strength of random colour changes; 0 makes none (IRNet; AffinityNet: 0.3)."""

    @property
    def pools_scores(self) -> bool:
        """True if cells are labelled by averaged scores."""
        return self.network == "affinitynet" and self.grid_labels == "pooled_scores"

    @property
    def grid_stride(self) -> int:
        """Stride of the network's output grid, in pixels of the image."""
        return _GRID_STRIDES[self.network]
