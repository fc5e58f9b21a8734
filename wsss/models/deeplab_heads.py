"""The heads of DeepLab without a decoder: LargeFOV and the ASPP of version 2, on any encoder at output stride 8 or 16.

Shape letters: B batch, C classes with background, D channels, H W pixels, h w strided pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from wsss.models.base_encoder import Encoder
from wsss.models.encoder import EncoderSpec, build_encoder

LARGE_FOV_RATES = (12,)
ASPP_RATES = (6, 12, 18, 24)
HEAD_STRIDES = (8, 16)
"""Output strides of the encoder; published is 8, and at 16 the rates are halved: the same distances in the image."""
HIDDEN = 1024
_LAST_DEVIATION = 0.01


class DeepLabHead(nn.Module):
    """Sum over branches of conv 3x3 dilated - ReLU - dropout - conv 1x1 - ReLU - dropout - conv 1x1 to C.

    Features [B,D,h,w] to logits [B,C,h,w]. The branches are preceded by the two 3x3 poolings of stride 1 with which
    DeepLab replaces VGG16's last one: maximum, then mean.
    One branch of rate 12 is LargeFOV, four of rates 6, 12, 18 and 24 are the ASPP. There is no normalisation layer.

    Source: Chen et al., ICLR 2015 (LargeFOV); Chen et al., TPAMI 2018 (DeepLab v2, ASPP).
    Differs: the hidden layers are randomly initialised (He); theirs are from VGG16's fully connected layers.
    """

    def __init__(
        self,
        num_features: int,
        *,
        num_classes: int,
        rates: tuple[int, ...],
        hidden: int = HIDDEN,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.pools = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.AvgPool2d(3, stride=1, padding=1))
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(num_features, hidden, 3, padding=rate, dilation=rate),
                nn.ReLU(),
                nn.Dropout2d(dropout),
                nn.Conv2d(hidden, hidden, 1),
                nn.ReLU(),
                nn.Dropout2d(dropout),
                nn.Conv2d(hidden, num_classes, 1),
            )
            for rate in rates
        )
        for branch in self.branches:
            *hidden_layers, last = (layer for layer in branch.modules() if isinstance(layer, nn.Conv2d))
            for layer in hidden_layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(torch.as_tensor(layer.bias))
            nn.init.normal_(last.weight, std=_LAST_DEVIATION)
            nn.init.zeros_(torch.as_tensor(last.bias))

    def forward(self, features_BDhw: torch.Tensor) -> torch.Tensor:
        pooled_BDhw = self.pools(features_BDhw)
        return torch.stack([branch(pooled_BDhw) for branch in self.branches]).sum(0)


class DeepLab(nn.Module):
    """An encoder and a `DeepLabHead`: logits [B,C,H,W] at the size of the image [B,3,H,W], resized bilinearly."""

    def __init__(
        self, encoder: Encoder, head: DeepLabHead, *, output_stride: int = 8, corner_to_corner: bool = False
    ) -> None:
        """`corner_to_corner`: how the head's grid spans the image. If true, as in the public code, its pixels are
        `output_stride` S image pixels apart, from corner to corner of the image, which is padded to sides of S n + 1
        pixels. If false, its cells tile the image."""
        super().__init__()
        self.encoder, self.head, self.corner_to_corner = encoder, head, corner_to_corner
        self.output_stride = output_stride

    @property
    def decoder_parts(self) -> tuple[nn.Module, ...]:
        """The randomly initialised parts: the head, and convolutions that an encoder variant adds."""
        added = getattr(self.encoder.network, "new_layers", ())
        return self.head, *(self.encoder.network.get_submodule(name) for name in added)

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        logits_BChw, extended = self.strided_logits(image_B3HW)
        height, width = image_B3HW.shape[-2:]
        logits_BCHW = F.interpolate(logits_BChw, size=extended, mode="bilinear", align_corners=self.corner_to_corner)
        return logits_BCHW[..., :height, :width]

    def strided_logits(self, image_B3HW: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """The logits on the head's grid, [B,C,h,w], and the size (H, W) of the image that it spans.

        `forward` is these, resized bilinearly and cropped; at stride 8 they need a sixty-fourth of its memory.

        Raises: ValueError if the grid is to span the image corner to corner, and the encoder's does not.
        """
        if self.corner_to_corner and self.encoder.tiles_image:
            raise ValueError(
                "the patches of a vision transformer tile the image, so its features cannot span it from corner to "
                f"corner; use a crop_size that is a multiple of {self.output_stride}"
            )
        if self.corner_to_corner:
            image_B3HW = _padded(image_B3HW, stride=self.output_stride)
        height, width = image_B3HW.shape[-2:]
        logits_BChw = self.head(self.encoder(image_B3HW))
        wanted = [(side - 1) // self.output_stride + 1 for side in (height, width)]
        if self.corner_to_corner and list(logits_BChw.shape[-2:]) != wanted:
            raise ValueError(
                f"of an image of {height}x{width} pixels this encoder makes {list(logits_BChw.shape[-2:])} features, "
                f"not {wanted} from corner to corner; use a crop_size that is a multiple of {self.output_stride}"
            )
        return logits_BChw, (height, width)


def _padded(image_B3HW: torch.Tensor, *, stride: int) -> torch.Tensor:
    """The image with its last row and column repeated, up to sides of `stride` n + 1 pixels."""
    rows, columns = ((1 - side) % stride for side in image_B3HW.shape[-2:])
    return F.pad(image_B3HW, (0, columns, 0, rows), mode="replicate") if rows or columns else image_B3HW


def build_deeplab(
    spec: EncoderSpec,
    *,
    num_classes: int,
    rates: tuple[int, ...],
    encoder: Encoder | None = None,
    hidden: int = HIDDEN,
    dropout: float = 0.5,
) -> DeepLab:
    """Make a network of `num_classes` (including the background) on the encoder of `spec`, or on the one given.

    `rates`: dilations in pixels at stride 8. `hidden`: channels of the two hidden layers of every branch, published
    as 1024.

    Raises: ValueError for another output stride than 8 or 16, for fewer than two classes, and as `build_encoder` does.
    Differs: output stride 16, with half the rates, is not published.
    """
    if spec.output_stride not in HEAD_STRIDES:
        raise ValueError(f"output_stride is {spec.output_stride}; LargeFOV and ASPP allow 8 or 16")
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; at least 2, background and one class")
    encoder = build_encoder(spec) if encoder is None else encoder
    rates = tuple(rate * HEAD_STRIDES[0] // spec.output_stride for rate in rates)
    head = DeepLabHead(encoder.num_features, num_classes=num_classes, rates=rates, hidden=hidden, dropout=dropout)
    return DeepLab(encoder, head, output_stride=spec.output_stride)
