"""The wide ResNet-38 of AffinityNet's public code, at output stride 8, with its parameter names.

Shape letters: B batch, D channels, H W pixels, h w strided pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

RESNET38 = "resnet38"
_HEADS = ("fc8.", "f8_3.", "f8_4.", "f8_5.", "f9.")
"""Layers behind the encoder in the public classifier and AffinityNet."""
_MXNET = re.compile(
    r"(?:arg:|aux:)?(?:res|bn)(?P<stage>\d)(?P<block>a|b\d+)_(?P<branch>branch\w+?)_(?P<last>weight|beta|gamma|moving_\w+)"
)
_MXNET_STEM = re.compile(r"(?:arg:|aux:)?(?:conv1a_weight|bn7_(?P<last>beta|gamma|moving_\w+)|linear1000_\w+)")
_OF_NORM = {"beta": "bias", "gamma": "weight", "moving_mean": "running_mean", "moving_var": "running_var"}


class _Block(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions; also gives its input after the first norm and ReLU."""

    def __init__(
        self,
        channels: tuple[int, int, int],
        *,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int = 0,
    ) -> None:
        super().__init__()
        before, middle, after = channels
        first = first_dilation or dilation
        self.bn_branch2a = nn.BatchNorm2d(before)
        self.conv_branch2a = nn.Conv2d(before, middle, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, after, 3, padding=dilation, dilation=dilation, bias=False)
        if before != after or stride != 1:
            self.conv_branch1 = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the block's output, and its input after the first norm and ReLU."""
        entering = F.relu(self.bn_branch2a(x))
        shortcut = self.conv_branch1(entering) if hasattr(self, "conv_branch1") else x
        out = self.conv_branch2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(entering))))
        return shortcut + out, entering


class _Bottleneck(nn.Module):
    """Pre-activation block of a 1x1, a dilated 3x3 and a 1x1 convolution, with dropout of whole channels."""

    def __init__(self, before: int, after: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(before)
        self.conv_branch2a = nn.Conv2d(before, after // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(after // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(after // 4, after // 2, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(after // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(after // 2, after, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the block's output, and its input after the first norm and ReLU."""
        entering = F.relu(self.bn_branch2a(x))
        out = self.conv_branch2a(entering)
        out = self.conv_branch2b1(self.dropout_2b1(F.relu(self.bn_branch2b1(out))))
        out = self.conv_branch2b2(self.dropout_2b2(F.relu(self.bn_branch2b2(out))))
        return self.conv_branch1(entering) + out, entering


class ResNet38(nn.Module):
    """Wide ResNet-38: image [B,3,H,W] -> [B,4096,h,w] on the grid of ceil(H / 8) x ceil(W / 8) pixels.

    Strides 2 at b2, b3 and b4; dilation 2 in b5, 4 in b6 and b7. Its levels are what enters the next stage, after that
    stage's first norm and ReLU: 128 channels at stride 2, 256 at stride 4, and at stride 8 conv4 (512), conv5 (1024)
    and conv6 (4096), the names of the public code.

    `width`: factor on all channels, for tests.
    Source: Wu, Shen and van den Hengel, "Wider or Deeper", 2016 (model A1), as in psa's public code (resnet38d).
    Differs: as published; random weights are torch's, since the published networks start from trained ones.
    """

    feature_info: list[dict[str, Any]]

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        w64, w128, w256, w512, w1024, w2048, w4096 = (int(width * 2**power) for power in range(6, 13))
        self.conv1a = nn.Conv2d(3, w64, 3, padding=1, bias=False)
        for stage, before, after, blocks in ((2, w64, w128, 3), (3, w128, w256, 3), (4, w256, w512, 6)):
            self.add_module(f"b{stage}", _Block((before, after, after), stride=2))
            for block in range(1, blocks):
                self.add_module(f"b{stage}_{block}", _Block((after, after, after)))
        self.b5 = _Block((w512, w512, w1024), first_dilation=1, dilation=2)
        self.b5_1 = _Block((w1024, w512, w1024), dilation=2)
        self.b5_2 = _Block((w1024, w512, w1024), dilation=2)
        self.b6 = _Bottleneck(w1024, w2048, dilation=4, dropout=0.3)
        self.b7 = _Bottleneck(w2048, w4096, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(w4096)
        self.num_features = w4096
        levels = ((w128, 2, "b3"), (w256, 4, "b4"), (w512, 8, "b5"), (w1024, 8, "b6"), (w4096, 8, "bn7"))
        self.feature_info = [{"num_chs": chs, "reduction": stride, "module": name} for chs, stride, name in levels]

    def forward_features(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Return conv6."""
        return self._levels(image_B3HW)[-1]

    def forward_intermediates(
        self, image_B3HW: torch.Tensor, *, indices: Sequence[int], intermediates_only: bool = False
    ) -> Any:
        """Return the chosen levels, or conv6 and the chosen levels, as timm's networks do."""
        levels = self._levels(image_B3HW)
        chosen = [levels[index] for index in indices]
        return chosen if intermediates_only else (levels[-1], chosen)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Raise AssertionError, as timm's networks do that cannot recompute activations."""
        assert not enable, "gradient checkpointing not supported"

    def _levels(self, image_B3HW: torch.Tensor) -> list[torch.Tensor]:
        x, levels = self.conv1a(image_B3HW), []
        entered_by = {level["module"] for level in self.feature_info}
        for name, block in self.named_children():
            if isinstance(block, _Block | _Bottleneck):
                x, entering = block(x)
                if name in entered_by:
                    levels.append(entering)
        return [*levels, F.relu(self.bn7(x))]


def published_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of the public code, or of the MXNet file that it starts from, with the names of `ResNet38`.

    Layers behind the encoder are left out. Source: convert_mxnet_to_torch of psa's network/resnet38d.py.
    """
    renamed = {_own_name(key): value for key, value in state.items() if not key.startswith(_HEADS)}
    return {key: value for key, value in renamed.items() if key}


def _own_name(key: str) -> str:
    """The name of a parameter of the MXNet file, such as arg:res4b3_branch2a_weight; other names as they are."""
    if stem := _MXNET_STEM.fullmatch(key):
        if "linear1000" in key:
            return ""
        return "conv1a.weight" if stem["last"] is None else f"bn7.{_OF_NORM[stem['last']]}"
    if (found := _MXNET.fullmatch(key)) is None:
        return key
    block = f"b{found['stage']}" + ("" if found["block"] == "a" else f"_{found['block'].removeprefix('b')}")
    if found["last"] == "weight":
        return f"{block}.conv_{found['branch']}.weight"
    return f"{block}.bn_{found['branch']}.{_OF_NORM[found['last']]}"
