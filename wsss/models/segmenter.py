"""The segmentation network: DeepLabv3+ on any timm encoder, for images of any size and batches of one.

Shape letters: B batch, C classes with background, D channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import nn

from wsss.models.base_encoder import Encoder
from wsss.models.encoder import EncoderSpec, build_encoder, settle_network
from wsss.models.published_encoders import PUBLISHED_ENCODERS
from wsss.models.transformer_segmenter import TransformerDeepLabV3Plus
from wsss.models.vision_transformer import TransformerEncoder
from wsss.models.weight_files import load_state

_SEGMENTER_STRIDES = (8, 16)
_NUM_LEVELS = 5
HIGH_RESOLUTION_LEVEL, LAST_LEVEL = 2, _NUM_LEVELS
"""The encoder's feature maps that the decoder reads: of stride 4, and the last."""
Features = list[torch.Tensor]


class Segmenter(nn.Module):
    """DeepLabv3+: logits [B,C,H,W] at the size of the image [B,3,H,W], any size; made by `build_segmenter`."""

    network: Any

    def __init__(self, network: nn.Module, *, output_stride: int, corner_to_corner: bool = True) -> None:
        """`corner_to_corner`: how `strided_logits` spans the image. True: its corner pixels are aligned with those of
        the image. False: its cells tile the image."""
        super().__init__()
        self.network = network
        self.output_stride, self.corner_to_corner = output_stride, corner_to_corner

    @property
    def encoder(self) -> nn.Module:
        """The part that may have pre-trained weights."""
        encoder: nn.Module = self.network.encoder
        return encoder

    @property
    def decoder_parts(self) -> tuple[nn.Module, nn.Module]:
        """The randomly initialised parts: the decoder and the segmentation head."""
        return self.network.decoder, self.network.segmentation_head

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Return the logits [B,C,H,W]; the image is padded with its last row and column, and the logits cropped."""
        return self.logits(image_B3HW)

    def logits(
        self, image_B3HW: torch.Tensor, *, through: Callable[[Features], Features] | None = None
    ) -> torch.Tensor:
        """As `forward`, with the encoder's features transformed by `through` before the decoder."""
        height, width = image_B3HW.shape[-2:]
        features: Features = self.network.encoder(self._extended(image_B3HW))
        decoded = self.network.decoder(features if through is None else through(features))
        logits_BCHW: torch.Tensor = self.network.segmentation_head(decoded)
        return logits_BCHW[..., :height, :width]

    def strided_logits(self, image_B3HW: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """The logits on the decoder's grid, [B,C,h,w], and the size (H, W) of the extended image that it spans.

        `forward` is these, resized to that size as `corner_to_corner` says and cropped; they need a sixteenth of its
        memory.
        """
        extended = self._extended(image_B3HW)
        convolution = self.network.segmentation_head[0]
        logits_BChw: torch.Tensor = convolution(self.network.decoder(self.network.encoder(extended)))
        return logits_BChw, (extended.shape[-2], extended.shape[-1])

    def _extended(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        height, width = image_B3HW.shape[-2:]
        extra_rows, extra_columns = -height % self.output_stride, -width % self.output_stride
        if extra_rows or extra_columns:
            return F.pad(image_B3HW, (0, extra_columns, 0, extra_rows), mode="replicate")
        return image_B3HW


def build_segmenter(
    spec: EncoderSpec,
    *,
    num_classes: int,
    atrous_rates: tuple[int, int, int],
    encoder: Encoder | None = None,
    decoder_channels: int = 256,
    dropout: float = 0.5,
) -> Segmenter:
    """Make a DeepLabv3+ of `num_classes` (including the background) on the encoder of `spec`.

    `atrous_rates`: dilations of the ASPP, published as 6, 12, 18 at output stride 16 and 12, 24, 36 at 8.
    The encoder gets the weights of `encoder` or, if that is None, those that `spec` names, without layers after its
    last stage; a vision transformer becomes a part of the segmenter itself (see `TransformerDeepLabV3Plus`). The image
    pooling branch has one pixel per image, so batch normalisation would fail for a batch of one; it uses a GroupNorm
    over all channels here. All other layers keep BatchNorm, which needs an image of more than one output-stride pixel.

    Raises: ValueError for another output stride than 8 or 16, for fewer than two classes, and as `build_encoder` does.
    Source: Chen et al., ECCV 2018 (DeepLabv3+), section 3; decoder of segmentation_models_pytorch.
    Differs: the normalisation above; image sides that are not a multiple of the output stride.
    """
    if spec.output_stride not in _SEGMENTER_STRIDES:
        allowed = " or ".join(map(str, _SEGMENTER_STRIDES))
        raise ValueError(f"output_stride is {spec.output_stride}; the segmenter allows {allowed}")
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; at least 2, background and one class")
    if spec.name in PUBLISHED_ENCODERS:
        raise ValueError(
            f"network = 'deeplabv3plus' needs an encoder of timm, and encoder is {spec.name!r}; set network = "
            "'largefov' or 'aspp', or choose another encoder"
        )
    # First, for its error messages: it checks that the network accepts the settings and that the file fits.
    encoder = build_encoder(spec) if encoder is None else encoder
    network: Any
    if isinstance(encoder, TransformerEncoder):
        network = TransformerDeepLabV3Plus(
            encoder,
            num_classes=num_classes,
            atrous_rates=atrous_rates,
            decoder_channels=decoder_channels,
            dropout=dropout,
        )
    else:
        network = plain_deeplabv3plus(
            spec, num_classes=num_classes, atrous_rates=atrous_rates, decoder_channels=decoder_channels, dropout=dropout
        )
        network.encoder.model = settle_network(network.encoder.model, spec=spec, features_only=True)
        _copy_weights(encoder, into=network.encoder.model, name=spec.name)
    _replace_pooling_norm(network.decoder)
    return Segmenter(network, output_stride=spec.output_stride, corner_to_corner=not encoder.tiles_image)


def plain_deeplabv3plus(
    spec: EncoderSpec,
    *,
    num_classes: int,
    atrous_rates: tuple[int, int, int],
    decoder_channels: int,
    dropout: float,
) -> Any:
    """The DeepLabv3+ of segmentation_models_pytorch as it is, randomly initialised."""
    return smp.DeepLabV3Plus(
        encoder_name=f"tu-{spec.name}",
        encoder_depth=_NUM_LEVELS,
        encoder_weights=None,
        encoder_output_stride=spec.output_stride,
        decoder_channels=decoder_channels,
        decoder_atrous_rates=atrous_rates,
        decoder_aspp_dropout=dropout,
        classes=num_classes,
        **{key: value for key, value in spec.timm_arguments.items() if key != "output_stride"},
    )


def _copy_weights(encoder: Encoder, *, into: nn.Module, name: str) -> None:
    """Copy the weights to timm's features-only form, which lacks the head and flattens some names."""
    wanted = into.state_dict().keys()
    state: dict[str, torch.Tensor] = {}
    for key, value in encoder.network.state_dict().items():
        flattened = key.replace(".", "_", 1)  # "stages.0.x" is "stages_0.x" there
        if key in wanted:
            state[key] = value
        elif flattened in wanted:
            state[flattened] = value
    load_state(into, state=state, described=f"the features of encoder {name!r}", origin="the whole encoder")


def _replace_pooling_norm(decoder: nn.Module) -> None:
    for pooling in [module for module in decoder.modules() if isinstance(module, ASPPPooling)]:
        for position, layer in enumerate(pooling):
            if isinstance(layer, nn.BatchNorm2d):
                pooling[position] = nn.GroupNorm(1, layer.num_features)
