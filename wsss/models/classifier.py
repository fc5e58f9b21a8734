"""Image classifiers whose last layer gives class activation maps: linear (IRN) or stochastic (FickleNet).

Shape letters: B batch, C classes without background, D channels, H W pixels, h w strided pixels, s kernel size,
T = s * s taps.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from wsss.models.base_encoder import Encoder
from wsss.ops.kept_draws import DrawKey
from wsss.ops.stochastic_cam import draw_masks, stochastic_scores

HEADS = ("linear", "stochastic")
CHOSEN = ("windows", "units")


class LinearHead(nn.Module):
    """logits = W dropout(mean_hw(x)): global average pooling and a linear layer without bias, W: [C,D]."""

    def __init__(self, num_features: int, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        _initialise(self.weight)

    def forward(self, features_BDhw: torch.Tensor) -> torch.Tensor:
        """Return the logits [B,C]."""
        pooled_BD: torch.Tensor = self.dropout(features_BDhw.mean(dim=(2, 3)))
        return pooled_BD @ self.weight.T


class StochasticHead(nn.Module):
    """logits = mean_hw(W * (masked x)): an s x s convolution over randomly chosen units, then pooling, W: [C,D,s,s].

    `chosen` "windows": each window draws which of its units to keep, the same for all channels; its centre is always
    kept. "units": ordinary dropout, a unit is kept or dropped for all windows, and kept units are scaled up.
    """

    def __init__(
        self, num_features: int, *, num_classes: int, kernel_size: int, drop_rate: float, chosen: str = "windows"
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; allowed: odd numbers, so that a window has a centre")
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"drop_rate is {drop_rate}; allowed: at least 0 and below 1")
        self.kernel_size = kernel_size
        if chosen not in CHOSEN:
            raise ValueError(f"chosen is {chosen!r}; allowed: {', '.join(CHOSEN)}")
        self.drop_rate = drop_rate
        self.chosen = chosen
        self.weight = nn.Parameter(torch.empty(num_classes, num_features, kernel_size, kernel_size))
        _initialise(self.weight)

    def forward(self, features_BDhw: torch.Tensor, *, generator: torch.Generator | None) -> torch.Tensor:
        """Return the logits [B,C]: in training mode with masks for each image, whose key is drawn from `generator` on
        the CPU and which are themselves drawn on the features' device; in evaluation mode the mean over all masks.
        """
        size_hw, device = (features_BDhw.shape[2], features_BDhw.shape[3]), features_BDhw.device
        if self.chosen == "units":
            features_BDhw = functional.dropout(features_BDhw, self.drop_rate, training=self.training)
        if self.training and self.drop_rate > 0.0 and self.chosen == "windows":
            masks_BThw = self._draw(size_hw, num_images=len(features_BDhw), generator=generator, device=device)
            kept_scale = 1.0
        else:
            masks_BThw = torch.ones(len(features_BDhw), self.kernel_size**2, *size_hw, dtype=torch.bool, device=device)
            # The score's mean over masks: it is linear in them, and all units except the centre are kept at this rate.
            kept_scale = 1.0 - self.drop_rate if self.chosen == "windows" else 1.0
        return stochastic_scores(features_BDhw, weights_CDss=self.weight, masks=masks_BThw, kept_scale=kept_scale)

    def _draw(
        self, size_hw: tuple[int, int], *, num_images: int, generator: torch.Generator | None, device: torch.device
    ) -> torch.Tensor:
        if generator is None:
            raise ValueError(
                "a stochastic head draws masks in training mode and was given no generator; pass generator = a "
                "torch.Generator seeded for this step, or call .eval()"
            )
        return draw_masks(
            size_hw,
            kernel_size=self.kernel_size,
            drop_rate=self.drop_rate,
            num_samples=num_images,
            key=DrawKey.drawn(generator),
            device=device,
        )


class Classifier(nn.Module):
    """Multi-label classifier: image [B,3,H,W] -> logits [B,C], column = class id - 1, before the sigmoid.

    head "linear": `kernel_size` and `drop_rate` are not used; channels of the pooled map are dropped with probability
    `dropout` in training mode. head "stochastic": a window of `kernel_size` squared
    pixels around each pixel, of which all but the centre are dropped with probability `drop_rate` in training mode;
    or, `chosen` "units", ordinary dropout of the map at that rate. In evaluation mode, the mean over all masks.

    Raises: ValueError for another head, an even kernel, a rate outside [0, 1), fewer than one class, and in training
    mode for a stochastic head without a generator.
    Source: Ahn, Cho and Kwak, CVPR 2019 (linear); Lee et al., CVPR 2019 (FickleNet), section 3 (stochastic).
    Differs: the whole encoder is trained, irn's first stages are frozen, and there may be dropout (linear);
    the scores are computed in closed form, without the expanded map (same values), and are not rescaled in training, as
    published; evaluation by the mean is ours, the paper draws masks there as well (stochastic).
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_classes: int,
        head: str,
        kernel_size: int = 1,
        drop_rate: float = 0.0,
        dropout: float = 0.0,
        chosen: str = "windows",
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head is {head!r}; allowed: {', '.join(HEADS)}")
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1, not counting the background")
        self.encoder = encoder
        self.head: LinearHead | StochasticHead
        if head == "linear":
            self.head = LinearHead(encoder.num_features, num_classes=num_classes, dropout=dropout)
        else:
            self.head = StochasticHead(
                encoder.num_features,
                num_classes=num_classes,
                kernel_size=kernel_size,
                drop_rate=drop_rate,
                chosen=chosen,
            )

    def forward(self, image_B3HW: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return the logits [B,C]; `generator` (on the CPU) is read by a stochastic head in training mode only."""
        return self.logits(self.features(image_B3HW), generator=generator)

    def logits(self, features_BDhw: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return the logits [B,C] for maps from `features`."""
        if isinstance(self.head, StochasticHead):
            stochastic_BC: torch.Tensor = self.head(features_BDhw, generator=generator)
            return stochastic_BC
        linear_BC: torch.Tensor = self.head(features_BDhw)
        return linear_BC

    def features(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Return the map [B,D,h,w] that the head reads."""
        features_BDhw: torch.Tensor = self.encoder(image_B3HW)
        return features_BDhw

    def stages(self, image_B3HW: torch.Tensor, *, finest_stride: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the map of `features`, and those at the end of the stages before it, fine to coarse, from one pass.

        Stages of a stride below `finest_stride` are left out.
        """
        last, maps = self.encoder.last_and_pyramid(image_B3HW)
        strides = self.encoder.pyramid_strides
        if not self.encoder.ends_beyond_pyramid:  # its last map is that of `features`
            maps, strides = maps[:-1], strides[:-1]
        return last, [of_stage for of_stage, stride in zip(maps, strides, strict=True) if stride >= finest_stride]

    @property
    def cam_weights(self) -> torch.Tensor:
        """The head's weights: [C,D] (linear) or [C,D,s,s] (stochastic), attached to the graph."""
        return self.head.weight


def _initialise(weight: torch.Tensor) -> None:
    # The default initialisation of torch for a convolution of this shape.
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
