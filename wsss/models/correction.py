"""Convolutional self-correction: a small network that merges two models' logits into corrected ones.

Shape letters: B batch, C classes with the background first, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

HIDDEN_CHANNELS = 128


class ConvSelfCorrection(nn.Module):
    """conv 3x3 (2C to 128) - ReLU - conv 3x3 (128 to C) of the concatenated logits of both models.

    Logits [B,C,H,W] of the primary and of the ancillary model to corrected logits of the same shape.

    Source: Ibrahim et al., CVPR 2020 (self-correcting networks), convolutional self-correction; the width of 128 is
    from a public re-implementation.  Differs: as published.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * num_classes, HIDDEN_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(HIDDEN_CHANNELS, num_classes, 3, padding=1),
        )

    def forward(self, logits_BCHW: torch.Tensor, ancillary_BCHW: torch.Tensor) -> torch.Tensor:
        corrected_BCHW: torch.Tensor = self.layers(torch.cat([logits_BCHW, ancillary_BCHW], dim=1))
        return corrected_BCHW


class CorrectedSegmenter(nn.Module):
    """A primary model with its self-correction: trained in the second of three stages; the third stage starts from it.

    `forward` is the primary model's: logits [B,C,H,W] of an image [B,3,H,W].
    """

    def __init__(self, primary: Segmenter | DeepLab, corrector: ConvSelfCorrection) -> None:
        super().__init__()
        self.primary, self.corrector = primary, corrector

    @property
    def encoder(self) -> nn.Module:
        """The part that may have pre-trained weights."""
        return self.primary.encoder

    @property
    def decoder_parts(self) -> tuple[nn.Module, ...]:
        """The parts that are randomly initialised."""
        return *self.primary.decoder_parts, self.corrector

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        logits_BCHW: torch.Tensor = self.primary(image_B3HW)
        return logits_BCHW
