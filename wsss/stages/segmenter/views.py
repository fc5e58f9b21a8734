"""The views of an image that a trained segmenter processes: settings and code shared by the stages that apply one.

Shape letters: `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from shards.records import Sample
from wsss.contract.settings import Scales, settings

if TYPE_CHECKING:
    import torch


@settings
class SegmenterViews:
    """Scales and mirror images of an image, and how their outputs are merged."""

    scales: Scales = (0.5, 1.0, 2.0)
    """Scales of the image, as factors of its size."""
    flip: bool = True
    """Also process the mirrored image at every scale."""
    merge: Literal["mean_logits", "mean_probabilities", "max"] = "mean_logits"
    """How views are merged: the mean of their logits, the mean of their probabilities, or the maximum of their
    probabilities divided by its sum over the classes."""
    long_side: Annotated[int, Field(ge=0)] = 0
    """Images are first resized so that their longer side has this many pixels, such as the middle of the sizes in
    training; scales are factors of that, so that 0.5 and 2 mean half and twice of what was learned. 0 does not resize:
    scales are factors of each image's own size."""

    def probabilities(self, sample: Sample, network: Any, trained: Any, *, size: tuple[int, int]) -> torch.Tensor:
        """Probabilities f32[C, *size] of one image; `trained` is the stage that trained the network.

        Raises: `BadSampleError` if the image cannot be decoded.
        """
        from wsss.ops.tta import predict_views

        merged_1CHW = predict_views(
            self.image(sample, network, trained),
            network=network,
            scales=self.scales,
            flips=(False, True) if self.flip else (False,),
            merge=self.merge,
            size=size,
        )
        return merged_1CHW[0].softmax(0) if self.merge == "mean_logits" else merged_1CHW[0]

    def image(self, sample: Sample, network: Any, trained: Any) -> torch.Tensor:
        """The network's input f32[1, 3, H, W], from which the views are made.

        Raises: `BadSampleError` if the image cannot be decoded.
        """
        from wsss.data.images import long_side_size, resize_image, to_tensor

        device = next(network.parameters()).device
        image_13HW = to_tensor(sample.image, mean=trained.mean, std=trained.std, device=device)[None]
        if self.long_side:
            image_13HW = resize_image(image_13HW, size=long_side_size(sample.size, long_side=self.long_side))
        return image_13HW
