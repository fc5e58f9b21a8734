"""Encoders that a paper defines and timm does not have, all at output stride 8; their weights from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from wsss.models.resnet38 import RESNET38, ResNet38, published_state
from wsss.models.vgg import CAFFE_MEAN, CAFFE_STD, VGG_VARIANTS, build_vgg, has_caffe_names, vgg_state
from wsss.models.weight_files import load_state, require_fit, require_weight_file

PUBLISHED_ENCODERS = (*VGG_VARIANTS, RESNET38)
OUTPUT_STRIDE = 8
_CLOSE = 1e-3


def build_published(name: str, *, pretrained: str) -> Any:
    """The network of this name; `pretrained`: "imagenet" (timm's weights), "none", or a .safetensors file.

    A file has the names of psa's public code, for a VGG16 also timm's. psa's .pth file is converted by
    `save_file({k: v.contiguous() for k, v in torch.load(PTH, weights_only=True).items()}, SAFETENSORS)`.

    Raises: ValueError for a weight file that does not fit, and for weights that timm does not have.
    """
    if pretrained == "imagenet":
        check_published_weights(name)
    network: Any = ResNet38() if name == RESNET38 else build_vgg(name, imagenet=pretrained == "imagenet")
    if pretrained not in ("imagenet", "none"):
        path = Path(pretrained)
        require_weight_file(path)
        load_published(network, load_file(path), name=name, origin=f"pretrained = {str(path)!r}")
    return network


def check_published_weights(name: str) -> None:
    """Raise ValueError if timm has no weights for this network."""
    if name == RESNET38:
        raise ValueError(
            f"pretrained = 'imagenet': timm has no weights for {name!r}; give the path of a .safetensors file with the "
            "names of psa's public code, or none to train from random weights"
        )


def load_published(network: Any, state: dict[str, torch.Tensor], *, name: str, origin: str) -> None:
    """Load weights with published names, strictly."""
    completed, added = _completed(network, state)
    load_state(network, state=completed, described=f"encoder {name!r}", origin=origin)
    if hasattr(network, "new_layers"):
        network.new_layers = added


def check_published_file(
    network: Any, path: Path, *, name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Raise the errors of `load_published` without loading weights, and for weights that need another normalisation."""
    require_weight_file(path)
    with safe_open(path, framework="pt") as file:
        state = {
            key: torch.empty(file.get_slice(key).get_shape(), device="meta")
            for key in file.keys()  # noqa: SIM118
        }
    shapes = {key: tuple(value.shape) for key, value in _completed(network, state)[0].items()}
    require_fit(network, shapes=shapes, described=f"encoder {name!r}", origin=f"pretrained = {str(path)!r}")
    given, needed = (*mean, *std), (*CAFFE_MEAN, *CAFFE_STD)
    if has_caffe_names(state) and any(abs(a - b) > _CLOSE * b for a, b in zip(given, needed, strict=True)):
        wanted = [[round(value, 7) for value in values] for values in (CAFFE_MEAN, CAFFE_STD)]
        raise ValueError(
            f"mean = {list(mean)} and std = {list(std)}: weights with Caffe's names need mean = {wanted[0]} and std = "
            f"{wanted[1]}; set these values"
        )


def _completed(network: Any, state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The weights of a file with the network's names, and the names of layers that stay new, with their own weights.

    A layer that a variant adds stays new if the file has none of its weights.
    """
    fitted = published_state(state) if isinstance(network, ResNet38) else vgg_state(network, state)
    given = {key.rpartition(".")[0] for key in fitted}
    added = tuple(layer for layer in getattr(network, "new_layers", ()) if layer not in given)
    own = {key: value for key, value in network.state_dict().items() if key.rpartition(".")[0] in added}
    return {**fitted, **own}, added
