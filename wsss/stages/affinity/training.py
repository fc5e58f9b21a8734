"""What every training of an affinity network offers to the stages that read the trained network."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wsss.contract.settings import settings
from wsss.data.augment import SizeRange
from wsss.stages.settings.encoder import EncoderSource

_GRID_STRIDES = {"irnet": 4, "affinitynet": 8}


@settings
class AffinityTraining(EncoderSource):
    """A training that leaves a `wsss.models.irnet.IRNet` or a `wsss.models.affinitynet.AffinityNet`."""

    trains: ClassVar[str] = "affinity network"

    network: Literal["irnet", "affinitynet"] = "irnet"
    """`irnet`: boundaries and displacements at stride 4; `affinitynet`: affinities of features at stride 8."""
    radius: Annotated[int, Field(ge=2)] = 10
    """Pixel pairs nearer than this are compared, in pixels of the network's grid (IRNet: 10; AffinityNet: 5)."""
    crop_size: Annotated[int, Field(ge=32, multiple_of=8)] = 512
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (256, 768)
    """Range of the longer side before cropping."""

    @property
    def grid_stride(self) -> int:
        """Pixels of the image per pixel that the network compares."""
        return _GRID_STRIDES[self.network]
