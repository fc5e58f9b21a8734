"""IRNet: class boundaries and the displacement to an object's centre, on top of a frozen encoder.

Shape letters: B batch, D channels, H W pixels, h w pixels of the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from wsss.models.base_encoder import Encoder

GRID_STRIDE = 4
_NUM_LEVELS = 5
_EDGE_CHANNELS = 32
_EDGE_GROUPS = 4
_DISPLACEMENT_CHANNELS = (64, 128, 256, 256, 256)
_FUSED_CHANNELS = 256


def _project(in_channels: int, *, out_channels: int, num_groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False), nn.GroupNorm(num_groups, out_channels)
    )


def _displacement_groups(channels: int) -> int:
    # 8 groups for 64 channels, 16 for more
    return min(channels // 8, 16)


def _resize(map_BDhw: torch.Tensor, *, size_hw: tuple[int, int]) -> torch.Tensor:
    if map_BDhw.shape[-2:] == size_hw:
        return map_BDhw
    return F.interpolate(map_BDhw, size=size_hw, mode="bilinear", align_corners=False)


class EdgeBranch(nn.Module):
    """Five levels, each projected, normalised, resized, passed through ReLU; combined into one boundary logit."""

    def __init__(self, pyramid_channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            _project(channels, out_channels=_EDGE_CHANNELS, num_groups=_EDGE_GROUPS) for channels in pyramid_channels
        )
        self.join = nn.Conv2d(_NUM_LEVELS * _EDGE_CHANNELS, 1, kernel_size=1)

    def forward(self, pyramid: Sequence[torch.Tensor], *, grid_hw: tuple[int, int]) -> torch.Tensor:
        """Return the logits [B,1,h,w] on `grid_hw`."""
        rectified = [
            F.relu(_resize(level(map_BDhw), size_hw=grid_hw))
            for level, map_BDhw in zip(self.levels, pyramid, strict=True)
        ]
        logits: torch.Tensor = self.join(torch.cat(rectified, dim=1))
        return logits


class DisplacementBranch(nn.Module):
    """Five levels: the three coarse ones are fused at stride 8, and the result with the two fine ones at stride 4."""

    def __init__(self, pyramid_channels: Sequence[int]) -> None:
        super().__init__()
        widths = _DISPLACEMENT_CHANNELS
        self.levels = nn.ModuleList(
            _project(channels, out_channels=width, num_groups=_displacement_groups(width))
            for channels, width in zip(pyramid_channels, widths, strict=True)
        )
        groups = _displacement_groups(_FUSED_CHANNELS)
        self.coarse = _project(sum(widths[2:]), out_channels=_FUSED_CHANNELS, num_groups=groups)
        self.fine = _project(sum(widths[:2]) + _FUSED_CHANNELS, out_channels=_FUSED_CHANNELS, num_groups=groups)
        self.join = nn.Conv2d(_FUSED_CHANNELS, 2, kernel_size=1, bias=False)

    def forward(
        self, pyramid: Sequence[torch.Tensor], *, grid_hw: tuple[int, int], half_grid_hw: tuple[int, int]
    ) -> torch.Tensor:
        """Return the field [B,2,h,w] (rows, columns) on `grid_hw`, not centred; `half_grid_hw` is that of stride 8."""
        sizes = (grid_hw, grid_hw, half_grid_hw, half_grid_hw, half_grid_hw)
        maps = [
            F.relu(_resize(level(map_BDhw), size_hw=size_hw))
            for level, map_BDhw, size_hw in zip(self.levels, pyramid, sizes, strict=True)
        ]
        coarse_BDhw = F.relu(_resize(self.coarse(torch.cat(maps[2:], dim=1)), size_hw=grid_hw))
        fine_BDhw = F.relu(self.fine(torch.cat([*maps[:2], coarse_BDhw], dim=1)))
        displacement: torch.Tensor = self.join(fine_BDhw)
        return displacement


class IRNet(nn.Module):
    """Boundary logits and displacement field of an image, on the grid of ceil(H / 4) x ceil(W / 4) pixels.

    image [B,3,H,W] float -> edge logits [B,1,h,w], displacement [B,2,h,w] in grid pixels, channel 0 rows, 1 columns.
    The given encoder is frozen: no gradient, always in evaluation mode. `mean_shift` [2], the mean of the
    field over the training images, is subtracted in evaluation mode; it is zero until the training task fills it.

    Raises: ValueError for an encoder without five levels of strides 2, 4, 8 and so on, or four of strides 4, 8 and so
    on.
    Source: Ahn, Cho and Kwak, CVPR 2019, section 4.1 and figure 3.
    Differs: any encoder; every level is resized to its grid, not upsampled by a fixed factor and cropped, so images of
    any size are supported, also above 512 pixels. The published first two levels are both at stride 4; here they are at
    strides 2 and 4, or, for encoders that begin at stride 4 (ConvNeXt), both are the finest level.
    """

    mean_shift: torch.Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        strides, channels = encoder.pyramid_strides, encoder.pyramid_channels
        self._begins_at_4 = len(strides) == _NUM_LEVELS - 1 and strides[:2] == (4, 8)
        if not self._begins_at_4 and (len(strides) != _NUM_LEVELS or strides[:3] != (2, 4, 8)):
            raise ValueError(
                f"IRNet reads five levels of strides 2, 4, 8, ..., or four of strides 4, 8, ...; this encoder has "
                f"{list(strides)}: choose another"
            )
        if self._begins_at_4:
            channels = (channels[0], *channels)
        self.encoder = encoder.requires_grad_(False)
        self.edge = EdgeBranch(channels)
        self.displacement = DisplacementBranch(channels)
        self.register_buffer("mean_shift", torch.zeros(2))
        self.encoder.eval()

    def train(self, mode: bool = True) -> IRNet:
        """Set the mode of the branches; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, image_B3HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the edge logits [B,1,h,w] and the displacement [B,2,h,w]."""
        pyramid = self._pyramid(image_B3HW)
        grid_hw = _grid(image_B3HW, stride=GRID_STRIDE)
        edge_logits_B1hw = self.edge(pyramid, grid_hw=grid_hw)
        half_grid_hw = _grid(image_B3HW, stride=2 * GRID_STRIDE)
        displacement_B2hw = self.displacement(pyramid, grid_hw=grid_hw, half_grid_hw=half_grid_hw)
        if not self.training:
            displacement_B2hw = displacement_B2hw - self.mean_shift[None, :, None, None]
        return edge_logits_B1hw, displacement_B2hw

    def edge_logits(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Return the edge logits [B,1,h,w] alone: all that semantic labels need."""
        edge_logits_B1hw: torch.Tensor = self.edge(
            self._pyramid(image_B3HW), grid_hw=_grid(image_B3HW, stride=GRID_STRIDE)
        )
        return edge_logits_B1hw

    def _pyramid(self, image_B3HW: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            levels = self.encoder.pyramid(image_B3HW)
        return [levels[0], *levels] if self._begins_at_4 else levels


def _grid(image_B3HW: torch.Tensor, *, stride: int) -> tuple[int, int]:
    height, width = image_B3HW.shape[-2:]
    return -(-height // stride), -(-width // stride)
