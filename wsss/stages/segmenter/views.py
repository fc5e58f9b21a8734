"""How a trained segmenter looks at an image: settings and work shared by the stages that apply one.

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
    """Scales and mirror images."""

    scales: Scales = (0.5, 1.0, 2.0)
    """Sizes of the image, as factors."""
    flip: bool = True
    """Also look at the mirrored image at every scale."""
    merge: Literal["mean_logits", "mean_probabilities", "max"] = "mean_logits"
    """What becomes of the views: the mean of their logits, the mean of their probabilities, or the maximum of these,
    divided by its sum over the classes."""
    long_side: Annotated[int, Field(ge=0)] = 0
    """Images are brought to this longer side first, the one the network was trained for; 0 leaves them as they are."""

    def probabilities(self, sample: Sample, network: Any, trained: Any, *, size: tuple[int, int]) -> torch.Tensor:
        """f32[C, *size] of one image; `trained` is the stage that trained the network.

        Raises: `BadSampleError` where the image does not decode.
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
        """f32[1, 3, H, W]: the image as the network takes it, before any view is made of it.

        Raises: `BadSampleError` where the image does not decode.
        """
        from wsss.data.images import long_side_size, resize_image, to_tensor

        device = next(network.parameters()).device
        image_13HW = to_tensor(sample.image, mean=trained.mean, std=trained.std)[None].to(device)
        if self.long_side:
            image_13HW = resize_image(image_13HW, size=long_side_size(sample.size, long_side=self.long_side))
        return image_13HW
