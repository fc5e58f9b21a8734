"""VGG16 as modified by three papers: smaller strides, dilation, additional convolutions.

Shape letters: B batch, D channels, H W pixels, h w strided pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

_ADDED = {"vgg16_npa": 3, "vgg16_npa_4conv": 4, "vgg16_ficklenet": 0, "vgg16_affinitynet": 0}
"""Variant -> number of convolutions of 512 channels added after the last block."""
VGG_VARIANTS = tuple(_ADDED)
CAFFE_MEAN = (122.675 / 255, 116.669 / 255, 104.008 / 255)
"""Mean of the channels red, green and blue that weights with Caffe's names need."""
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
_WIDTH = 512
_FULLY_CONNECTED = 1024
_CAFFE_FIRST = "conv1_1.weight"
_CAFFE_HEADS = ("fc8.", "f8_3.", "f8_4.", "f8_5.", "f9.", "gn8_3.", "gn8_4.", "gn8_5.")
"""Layers behind the encoder in psa's classifier and AffinityNet."""


def build_vgg(name: str, *, imagenet: bool) -> Any:
    """timm's VGG16 as modified by the third place of LID 2020 (`vgg16_npa`), FickleNet or AffinityNet; output stride 8.

    The third place's code adds three convolutions; its slides say four. `vgg16_npa` is its code, with which its results
    were made as far as is known; `vgg16_npa_4conv` has four and is the same otherwise.

    | | `vgg16_npa`, `vgg16_npa_4conv` | `vgg16_ficklenet` | `vgg16_affinitynet` |
    |---|---|---|---|
    | based on | VGG16 with batch normalisation | VGG16 | VGG16 |
    | pools 1 to 3 | 2x2, stride 2 | 3x3, stride 2, padding 1 | the same |
    | pool 4 | 3x3, stride 1, padding 1 | the same | the same |
    | pool 5 | none | none | none |
    | block 5 | dilated by 2 | the same | the same |
    | after it | three (four) 3x3 convolutions with ReLU, new | nothing | fc6 (3x3), dropout, fc7 (1x1): 1024 channels |
    | levels at stride 8 | pools 3 and 4, block 5 | the same | block 4 before its pool (conv4), block 5 (conv5), fc7 |

    `imagenet`: timm's weights instead of random ones. Maps have ceil(H / 8) x ceil(W / 8) pixels (321 px: 41), for the
    third place's networks floor(H / 8) x floor(W / 8).

    Source: public code of NoPeopleAllowed (LID 2020, third place); Lee et al., CVPR 2019 (FickleNet), section 4; public
    code of Ahn and Kwak, CVPR 2018 (AffinityNet), where fc6 is not dilated in the classifier, and by 4 in AffinityNet
    (`dilate_fc6`).
    Differs: as published; fc6 and fc7 of timm's weights are sampled (`_sampled`), psa's are trained after sampling.
    """
    base = "vgg16_bn" if _ADDED[name] else "vgg16"
    # 123 of the 138 million weights are in two unused fully connected layers: make them small if none are loaded.
    arguments = {"pretrained": True} if imagenet else {"mlp_ratio": 1 / 4096}
    network: Any = timm.create_model(base, num_classes=0, global_pool="", **arguments)
    whole = network.state_dict() if imagenet else {}
    network.pre_logits = nn.Identity()
    pools = [place for place, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d)]
    _keep_stride_8(network.features, pools, overlapping=not _ADDED[name])
    levels = [(64, 2, pools[0]), (128, 4, pools[1]), (256, 8, pools[2]), (512, 8, pools[3]), (512, 8, pools[4])]
    network.new_layers = _extend(network.features, number=_ADDED[name])
    network.ends_beyond_pyramid, network.has_fc6 = _ADDED[name] > 0, name == "vgg16_affinitynet"
    if name == "vgg16_affinitynet":
        network.new_layers = _add_fully_connected(network.features)
        network.num_features = _FULLY_CONNECTED
        levels[2:] = [(512, 8, pools[3] - 1), (512, 8, pools[4]), (_FULLY_CONNECTED, 8, len(network.features) - 1)]
        if imagenet:
            network.load_state_dict(vgg_state(network, whole))
            network.new_layers = ()
    network.feature_info = [
        {"num_chs": channels, "reduction": stride, "module": f"features.{place}"} for channels, stride, place in levels
    ]
    network.feature_ends = [place for _, _, place in levels]
    return network


def _keep_stride_8(features: nn.Sequential, pools: list[int], *, overlapping: bool) -> None:
    """Take the strides of the last two pools away, and dilate the last block; `overlapping`: first pools of 3x3."""
    if overlapping:
        for place in pools[:3]:
            features[place] = nn.MaxPool2d(3, stride=2, padding=1)
    features[pools[3]] = nn.MaxPool2d(3, stride=1, padding=1)
    features[pools[4]] = nn.Identity()
    for layer in features[pools[3] :]:
        if isinstance(layer, nn.Conv2d):
            layer.dilation, layer.padding = (2, 2), (2, 2)


def _extend(features: nn.Sequential, *, number: int) -> tuple[str, ...]:
    """Append convolutions with ReLU; their names below the network."""
    return tuple(_append(features, nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)) for _ in range(number))


def _add_fully_connected(features: nn.Sequential) -> tuple[str, ...]:
    """Append fc6 and fc7 with ReLU, and the dropout between them; the names of both."""
    first = _append(features, nn.Conv2d(_WIDTH, _FULLY_CONNECTED, 3, padding=1))
    features.append(nn.Dropout2d(0.5))
    return first, _append(features, nn.Conv2d(_FULLY_CONNECTED, _FULLY_CONNECTED, 1))


def _append(features: nn.Sequential, convolution: nn.Conv2d) -> str:
    """Append a convolution with ReLU; its name below the network."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(torch.as_tensor(convolution.bias))
    name = f"features.{len(features)}"
    features.append(convolution)
    features.append(nn.ReLU(inplace=True))
    return name


def has_fc6(network: nn.Module) -> bool:
    """True for a VGG16 with fc6 and fc7."""
    return bool(getattr(network, "has_fc6", False))


def dilate_fc6(network: Any, *, dilation: int) -> None:
    """Dilate fc6 of `vgg16_affinitynet`; its weights and its grid stay the same."""
    fc6 = network.features[_places(network)[-2]]
    fc6.dilation = fc6.padding = (dilation, dilation)


def has_caffe_names(state: Mapping[str, object]) -> bool:
    """True for a file with the names of psa's networks, which are Caffe's."""
    return _CAFFE_FIRST in state


def vgg_state(network: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a file, with the network's names; classifiers are left out.

    `state` has timm's names, or psa's (conv1_1 to conv5_3, fc6, fc7), whose first convolution reads blue, green, red.
    Of timm's, fc6 and fc7 are sampled from the fully connected layers if the file has them. Tensors may be on the meta
    device.
    """
    if has_caffe_names(state):
        return _from_caffe(network, state)
    found = {key: value for key, value in state.items() if key.startswith("features.")}
    if has_fc6(network):
        fc6, fc7 = (f"features.{place}" for place in _places(network)[-2:])
        weights = {fc6: state.get("pre_logits.fc1.weight"), fc7: state.get("pre_logits.fc2.weight")}
        if f"{fc6}.weight" not in found and all(w is not None and len(w) == 4096 for w in weights.values()):
            found |= {f"{layer}.weight": _sampled(weight) for layer, weight in weights.items() if weight is not None}
            found |= {f"{layer}.bias": state[f"pre_logits.fc{n}.bias"][::4] for n, layer in enumerate((fc6, fc7), 1)}
    return found


def _sampled(weight: torch.Tensor) -> torch.Tensor:
    """Every fourth channel and, of a 7x7 kernel, taps 0, 3 and 6 in both directions: [1024,512,3,3] or [1024,1024,1,1].

    Source: Chen et al., ICLR 2015 (DeepLab), section 3.1, which samples fc6 and fc7 in this way.
    Differs: which of the units are kept is not published.
    """
    if weight.shape[-1] == 1:
        return weight[::4, ::4]
    return weight[::4, :, ::3, ::3]


def _from_caffe(network: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    blocks = ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
    names = [f"conv{block}_{number}" for block, count in blocks for number in range(1, count + 1)]
    own = dict(zip([*names, "fc6", "fc7"], _places(network), strict=False))
    renamed = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if not key.startswith(_CAFFE_HEADS):
            renamed[f"features.{own[layer]}.{kind}" if layer in own else key] = value
    first = "features.0.weight"
    return {**renamed, first: renamed[first].flip(1)}


def _places(network: Any) -> list[int]:
    """Positions of all convolutions among the features."""
    return [place for place, layer in enumerate(network.features) if isinstance(layer, nn.Conv2d)]
