"""AffinityNet: features whose distance indicates whether two pixels belong to the same class.

Shape letters: B batch, D channels, H W pixels, h w pixels of the stride-8 grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from wsss.models.base_encoder import Encoder
from wsss.models.vgg import dilate_fc6, has_fc6

GRID_STRIDE = 8
NUM_FEATURES = 448
FC6_DILATION = 4


class _Branch(NamedTuple):
    width: int
    num_groups: int


_BRANCHES = (_Branch(64, 8), _Branch(128, 16), _Branch(256, 32))
_JOIN_GAIN = 4.0


class AffinityNet(nn.Module):
    """image [B,3,H,W] float -> features [B,448,h,w] on the grid of ceil(H / 8) x ceil(W / 8) pixels.

    The last three maps of the encoder, all at stride 8, are each projected (to 64, 128 and 256 channels), normalised
    and passed through ELU; concatenated, they are projected once more. The encoder is trained too, except its stages up
    to `frozen_stride`, which are frozen. `normalised` False leaves out the group normalisation.

    Raises: ValueError for an encoder whose last three maps are not at stride 8, or for an unknown `frozen_stride`.
    Source: Ahn and Kwak, CVPR 2018, section 3.2, and its public code: `vgg16_affinitynet` with conv4, conv5 and fc7,
    fc6 dilated by 4, normalised, `frozen_stride` 4; or `resnet38` with conv4, conv5 and conv6, not normalised,
    `frozen_stride` 2, all norms of the encoder frozen.
    Differs: any encoder. "The last three maps" are those of its last three stages, or, if layers follow the last
    stage, those of the last two stages and of these layers (`vgg16_npa`, MobileNetV2).
    """

    def __init__(self, encoder: Encoder, *, frozen_stride: int = 4, normalised: bool = True) -> None:
        super().__init__()
        if encoder.pyramid_strides[-3:] != (GRID_STRIDE,) * 3:
            raise ValueError(
                f"AffinityNet reads three maps of stride 8; this encoder's last three have strides "
                f"{list(encoder.pyramid_strides[-3:])}: set output_stride = 8, or choose another encoder"
            )
        if has_fc6(encoder.network):
            dilate_fc6(encoder.network, dilation=FC6_DILATION)
        self.encoder = encoder
        self._ends_beyond = encoder.ends_beyond_pyramid
        channels = encoder.pyramid_channels[-3:]
        if self._ends_beyond:
            channels = (*channels[1:], encoder.num_features)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, branch.width, kernel_size=1, bias=False),
                nn.GroupNorm(branch.num_groups, branch.width) if normalised else nn.Identity(),
                nn.ELU(),
            )
            for in_channels, branch in zip(channels, _BRANCHES, strict=True)
        )
        self.join = nn.Sequential(nn.Conv2d(NUM_FEATURES, NUM_FEATURES, kernel_size=1, bias=False), nn.ELU())
        for branch in self.branches:
            nn.init.kaiming_normal_(branch[0].weight)  # type: ignore[index]
        nn.init.xavier_uniform_(self.join[0].weight, gain=_JOIN_GAIN)  # type: ignore[arg-type]
        encoder.freeze_stages(up_to_stride=frozen_stride)

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Return the features [B,448,h,w]."""
        grid_hw = tuple(-(-side // GRID_STRIDE) for side in image_B3HW.shape[-2:])
        last, pyramid = self.encoder.last_and_pyramid(image_B3HW)
        maps = [*pyramid[-2:], last] if self._ends_beyond else pyramid[-3:]
        projected = [
            _resize(branch(map_BDhw), size_hw=grid_hw) for branch, map_BDhw in zip(self.branches, maps, strict=True)
        ]
        features: torch.Tensor = self.join(torch.cat(projected, dim=1))
        return features


def _resize(map_BDhw: torch.Tensor, *, size_hw: tuple[int, ...]) -> torch.Tensor:
    """Resize if needed: encoders that round sizes down lose a pixel at the border."""
    if map_BDhw.shape[-2:] == size_hw:
        return map_BDhw
    return F.interpolate(map_BDhw, size=size_hw, mode="bilinear", align_corners=False)
