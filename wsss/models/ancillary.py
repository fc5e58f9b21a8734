"""The ancillary model of self-correcting networks: a DeepLabv3+ that also takes object boxes as input.

Shape letters: B batch, C classes with the background first, D channels, H W pixels, h w strided pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from wsss.models.segmenter import HIGH_RESOLUTION_LEVEL, LAST_LEVEL, Segmenter


class BoxEncoder(nn.Module):
    """Twice the sigmoid of a 3x3 convolution of the box planes: an attention map per feature channel of one scale.

    bool [B,C,h,w] (see `box_planes`), resized to the nearest pixel of `size`, to float [B,D,*size] in (0, 2).

    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), the bounding box encoder, whose inner layers are not
    published: public re-implementations use one convolution.  Differs: twice the sigmoid, which starts near 1, so that
    the initial features are those of the pre-trained encoder, and the sigmoid is at its steepest point.
    """

    def __init__(self, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(num_classes, num_features, 3, padding=1)
        nn.init.zeros_(torch.as_tensor(self.convolution.bias))

    def forward(self, planes_BChw: torch.Tensor, *, size: torch.Size) -> torch.Tensor:
        planes = F.interpolate(planes_BChw.to(self.convolution.weight.dtype), size=size, mode="nearest")
        return 2 * torch.sigmoid(self.convolution(planes))


class AncillarySegmenter(nn.Module):
    """Logits [B,C,H,W] of an image [B,3,H,W] and its box planes, bool [B,C,h,w], of any size that covers the image.

    The attention maps of the boxes multiply the encoder's features at the two scales that the decoder reads.

    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), section 3.1 and its figure.
    """

    def __init__(self, segmenter: Segmenter, *, num_classes: int) -> None:
        super().__init__()
        self.segmenter, self.num_classes = segmenter, num_classes
        channels = segmenter.network.encoder.out_channels
        self.boxes_high = BoxEncoder(num_classes, channels[HIGH_RESOLUTION_LEVEL])
        self.boxes_last = BoxEncoder(num_classes, channels[LAST_LEVEL])

    @property
    def encoder(self) -> nn.Module:
        """The part that may have pre-trained weights."""
        return self.segmenter.encoder

    @property
    def decoder_parts(self) -> tuple[nn.Module, ...]:
        """The parts that are randomly initialised."""
        return *self.segmenter.decoder_parts, self.boxes_high, self.boxes_last

    def forward(self, image_B3HW: torch.Tensor, planes_BChw: torch.Tensor) -> torch.Tensor:
        def seen_through_boxes(features: list[torch.Tensor]) -> list[torch.Tensor]:
            features = list(features)
            for level, boxes in ((HIGH_RESOLUTION_LEVEL, self.boxes_high), (LAST_LEVEL, self.boxes_last)):
                features[level] = features[level] * boxes(planes_BChw, size=features[level].shape[-2:])
            return features

        return self.segmenter.logits(image_B3HW, through=seen_through_boxes)
