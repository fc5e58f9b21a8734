"""VGG16 as modified by two papers: smaller strides, dilation, additional convolutions.

Shape letters: B batch, D channels, H W pixels, h w strided pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from wsss.models.weight_files import load_state, require_weight_file

_ADDED = {"vgg16_npa": 3, "vgg16_npa_4conv": 4, "vgg16_ficklenet": 0}
"""Variant -> number of convolutions added after the last block."""
VGG_VARIANTS = tuple(_ADDED)
OUTPUT_STRIDE = 8
_WIDTH = 512


def build_vgg(name: str, *, pretrained: str) -> Any:
    """timm's VGG16 as modified by the third place of LID 2020 (`vgg16_npa`) or by FickleNet; both at output stride 8.

    The third place's code adds three convolutions; its slides say four. `vgg16_npa` is its code, with which its results
    were made as far as is known; `vgg16_npa_4conv` has four and is the same otherwise.

    | | `vgg16_npa`, `vgg16_npa_4conv` | `vgg16_ficklenet` |
    |---|---|---|
    | based on | VGG16 with batch normalisation | VGG16 |
    | pools 1 to 3 | 2x2, stride 2 | 3x3, stride 2, padding 1 |
    | pool 4 | 3x3, stride 1, padding 1 | the same |
    | pool 5 | none | none |
    | block 5 | dilated by 2 | the same |
    | after it | three (four) 3x3 convolutions with ReLU, new | nothing |

    `pretrained`: "imagenet" (timm's weights), "none", or a .safetensors file with timm's names. Maps have
    ceil(H / 8) x ceil(W / 8) pixels for `vgg16_ficklenet` (321 px: 41), floor(H / 8) x floor(W / 8) for the others.

    Raises: ValueError for a weight file that does not fit.
    Source: public code of NoPeopleAllowed (LID 2020, third place); Lee et al., CVPR 2019 (FickleNet), section 4.
    Differs: as published.
    """
    base = "vgg16" if name == "vgg16_ficklenet" else "vgg16_bn"
    # 123 of the 138 million weights are in two unused fully connected layers: make them small if none are loaded.
    arguments = {"pretrained": True} if pretrained == "imagenet" else {"mlp_ratio": 1 / 4096}
    network: Any = timm.create_model(base, num_classes=0, global_pool="", **arguments)
    network.pre_logits = nn.Identity()
    if pretrained not in ("imagenet", "none"):
        _load(network, Path(pretrained), name=name)
    pools = [place for place, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d)]
    if name == "vgg16_ficklenet":
        for place in pools[:3]:
            network.features[place] = nn.MaxPool2d(3, stride=2, padding=1)
    network.features[pools[3]] = nn.MaxPool2d(3, stride=1, padding=1)
    network.features[pools[4]] = nn.Identity()
    for layer in network.features[pools[3] :]:
        if isinstance(layer, nn.Conv2d):
            layer.dilation, layer.padding = (2, 2), (2, 2)
    network.new_layers = _extend(network.features, number=_ADDED[name])
    levels = [(64, 2, pools[0]), (128, 4, pools[1]), (256, 8, pools[2]), (512, 8, pools[3]), (512, 8, pools[4])]
    network.feature_info = [
        {"num_chs": channels, "reduction": stride, "module": f"features.{place}"} for channels, stride, place in levels
    ]
    network.feature_ends = [place for _, _, place in levels]
    return network


def _extend(features: nn.Sequential, *, number: int) -> tuple[str, ...]:
    """Append convolutions with ReLU; their names below the network."""
    names = []
    for _ in range(number):
        convolution = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(torch.as_tensor(convolution.bias))
        names.append(f"features.{len(features)}")
        features.append(convolution)
        features.append(nn.ReLU(inplace=True))
    return tuple(names)


def _load(network: nn.Module, path: Path, *, name: str) -> None:
    require_weight_file(path)
    state = {key: value for key, value in load_file(path).items() if key.startswith("features.")}
    load_state(network, state=state, described=f"encoder {name!r}", origin=str(path))
