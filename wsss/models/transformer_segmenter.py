"""The network of DeepLabv3+ on a vision transformer, with the decoder of segmentation_models_pytorch.

Shape letters: B batch, D channels, H W pixels, h w patches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import nn

from wsss.models.vision_transformer import PATCH_SIDE, TransformerEncoder

_NUM_LEVELS = 5
_DECODER_STRIDE = 4
_ENLARGED = PATCH_SIDE // _DECODER_STRIDE


class TransformerLevels(nn.Module):
    """The six feature maps that an encoder of segmentation_models_pytorch gives, of which the decoder reads two.

    image [B,3,H,W], sides multiples of 16 -> [image, none, fine, none, none, last]: `last` [B,D,h,w] are the patch
    tokens after the last block and norm; `fine` [B,D,4h,4w] are those after the first quarter of the blocks, enlarged
    four times (bilinear), because a vision transformer has no map of stride 4; `none` has no channels.
    """

    def __init__(self, model: TransformerEncoder) -> None:
        super().__init__()
        self.model = model
        self.out_channels = (3, 0, model.pyramid_channels[0], 0, 0, model.num_features)

    def forward(self, image_B3HW: torch.Tensor) -> list[torch.Tensor]:
        """Return the six maps, fine to coarse."""
        last_BDhw, (early_BDhw, *_) = self.model.last_and_pyramid(image_B3HW)
        fine_BDHW = F.interpolate(early_BDhw, scale_factor=_ENLARGED, mode="bilinear", align_corners=False)
        none = image_B3HW[:, :0]
        return [image_B3HW, none, fine_BDHW, none, none, last_BDhw]


class TransformerDeepLabV3Plus(nn.Module):
    """DeepLabv3+ with the parts and names of `segmentation_models_pytorch.DeepLabV3Plus`; randomly initialised decoder.

    Source: Chen et al., ECCV 2018 (DeepLabv3+), section 3; decoder of segmentation_models_pytorch.
    Differs: the level of stride 4, see `TransformerLevels`; maps are enlarged as cells that tile the image, as patches
    do, not from corner to corner.
    """

    def __init__(
        self,
        encoder: TransformerEncoder,
        *,
        num_classes: int,
        atrous_rates: tuple[int, int, int],
        decoder_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = TransformerLevels(encoder)
        self.decoder = DeepLabV3PlusDecoder(
            encoder_channels=self.encoder.out_channels,
            encoder_depth=_NUM_LEVELS,
            out_channels=decoder_channels,
            atrous_rates=atrous_rates,
            output_stride=PATCH_SIDE,
            aspp_separable=True,
            aspp_dropout=dropout,
        )
        self.segmentation_head = SegmentationHead(
            decoder_channels, num_classes, kernel_size=1, upsampling=_DECODER_STRIDE
        )
        self.decoder.up = _enlarge(_ENLARGED)
        self.segmentation_head[1] = _enlarge(_DECODER_STRIDE)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)


def _enlarge(factor: int) -> nn.Upsample:
    return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
