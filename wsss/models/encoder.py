"""Encoders: timm networks without their classifier, at a chosen output stride, from a weight file or from scratch.

Shape letters: B batch, D channels, H W pixels, h w strided pixels.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.layers.conv2d_same import Conv2dSame
from timm.models import is_model_pretrained
from timm.utils.model import reparameterize_model
from torch import nn

from wsss.models.base_encoder import Encoder
from wsss.models.published_encoders import OUTPUT_STRIDE as PUBLISHED_STRIDE
from wsss.models.published_encoders import (
    PUBLISHED_ENCODERS,
    build_published,
    check_published_file,
    check_published_weights,
)
from wsss.models.vision_transformer import (
    PATCH_SIDE,
    TransformerEncoder,
    is_vision_transformer,
    require_plain,
)
from wsss.models.weight_files import drop_classifier, load_weight_file, require_fit, require_weight_file

OUTPUT_STRIDES = (8, 16, 32)
_NATIVE_STRIDE = 32
STRIDED_FAMILIES = (
    "byoanet",
    "byobnet",
    "convnext",
    "cspnet",
    "cspnext",
    "efficientnet",
    "mobilevit",
    "nfnet",
    "regnet",
    "res2net",
    "resnest",
    "resnet",
    "resnetv2",
    "rexnet",
    "sknet",
    "xception_aligned",
)
"""Modules of timm whose networks accept `output_stride`."""
_NUM_NAMED = 4  # names quoted in an error


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """Which encoder, at which output stride, with which weights."""

    name: str
    """timm's name of the network, or one of `PUBLISHED_ENCODERS`."""
    output_stride: int
    """Input pixels per pixel of the last feature map: 8, 16 or 32."""
    dilated: bool
    """True: removed strides are replaced by dilation (DeepLab). False: strides are removed without dilation (IRN)."""
    pretrained: str
    """"imagenet" (timm's own weights), "none" (from scratch), or the path of a .safetensors file."""
    pad_type: str = ""
    """"same" for networks converted from TensorFlow, empty for timm's default padding."""
    drop_path: float = 0.0
    """Rate of stochastic depth at the last block, in [0, 1)."""
    reparameterised: bool = False
    """True: the branches of a MobileOne or RepVGG are fused, as in the weight file."""

    def __post_init__(self) -> None:
        if self.output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output_stride is {self.output_stride}; allowed: {', '.join(map(str, OUTPUT_STRIDES))}")
        if self.pad_type not in ("", "same"):
            raise ValueError(f'pad_type is {self.pad_type!r}; allowed: "" (timm\'s own) or "same"')
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path is {self.drop_path}; allowed: at least 0 and below 1")

    @property
    def weight_file(self) -> Path | None:
        """The weight file, if the weights are from one."""
        return None if self.pretrained in ("imagenet", "none") else Path(self.pretrained)

    @property
    def timm_arguments(self) -> dict[str, Any]:
        """Arguments of timm.create_model besides the name; defaults are omitted: few networks accept all options."""
        arguments: dict[str, Any] = {}
        if is_vision_transformer(self.name):
            arguments = {"dynamic_img_size": True, "dynamic_img_pad": True}
        elif self.output_stride != _NATIVE_STRIDE:
            arguments["output_stride"] = self.output_stride
        if self.pad_type:
            arguments["pad_type"] = self.pad_type
        if self.drop_path:
            arguments["drop_path_rate"] = self.drop_path
        return arguments


def build_encoder(spec: EncoderSpec) -> Encoder:
    """Make the encoder of `spec`.

    The maps have ceil(H / stride) x ceil(W / stride) pixels for convolutional networks with the usual padding.

    Raises: ValueError for an unknown name (with similar names), a network that does not support the output stride,
    padding, stochastic depth, missing dilation or fusion of `spec`, one without published weights for "imagenet", a
    weight file that is missing or does not fit (with the keys), and a vision transformer that `require_plain` refuses.
    Source: a stride removed without dilation: Ahn, Cho and Kwak, CVPR 2019 (IRN), the published classifier.
    Differs: any timm network, not ResNet-50 alone.
    """
    if is_vision_transformer(spec.name):
        return _vision_transformer(spec)
    arguments = {"num_classes": 0, "global_pool": ""}
    network = create_network(spec, **arguments)
    reduction = network.feature_info[-1]["reduction"]
    if reduction != spec.output_stride:
        raise ValueError(f"encoder {spec.name!r} has output stride {reduction}; it cannot be {spec.output_stride}")
    network = settle_network(network, spec=spec, **arguments)
    if spec.weight_file is not None and spec.name not in PUBLISHED_ENCODERS:
        load_weight_file(network, path=spec.weight_file, described=f"encoder {spec.name!r}")
    return Encoder(network)


def _vision_transformer(spec: EncoderSpec) -> TransformerEncoder:
    fixed = {"output_stride": PATCH_SIDE, "dilated": False, "pad_type": "", "reparameterised": False}
    _require_values(spec, fixed)
    # Without `global_pool`: it decides whether timm puts the last norm before or after the pooling.
    network = create_network(spec, num_classes=0)
    require_plain(network, name=spec.name)
    if spec.weight_file is not None:
        load_weight_file(network, path=spec.weight_file, described=f"encoder {spec.name!r}")
    return TransformerEncoder(network)


def create_network(spec: EncoderSpec, **arguments: Any) -> Any:
    """timm.create_model with error messages that say what to change; "imagenet" weights are loaded by timm."""
    if spec.name in PUBLISHED_ENCODERS:
        with _explained_download(spec):
            return _published(spec)
    check_name(spec.name)
    pretrained = spec.pretrained == "imagenet"
    if pretrained:
        _require_published(spec.name)
    passed = spec.timm_arguments
    try:
        with _explained_download(spec):
            return timm.create_model(spec.name, pretrained=pretrained, **passed, **arguments)
    except (TypeError, AssertionError, NotImplementedError) as error:
        if not passed:
            raise
        refused = [key for key in passed if f"'{key}'" in str(error)] or list(passed)
        asked = " and ".join(f"{key} = {passed[key]!r}" for key in refused)
        raise ValueError(f"encoder {spec.name!r} does not support {asked}; {_advice(spec, refused)}") from error


@contextmanager
def _explained_download(spec: EncoderSpec) -> Iterator[None]:
    """Name the setting when timm cannot download weights: no network, a full disk."""
    try:
        yield
    except OSError as error:
        if spec.pretrained != "imagenet":
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"pretrained = 'imagenet': timm could not download the weights of {spec.name!r} ({reason}); give the "
            "path of a .safetensors file with timm's names, or none to train from random weights"
        ) from error


def _advice(spec: EncoderSpec, refused: list[str]) -> str:
    if "output_stride" not in refused:
        return "remove it, or choose another encoder"
    strided = [name for family in STRIDED_FAMILIES for name in timm.list_models(module=family)]
    near = difflib.get_close_matches(spec.name, strided, n=_NUM_NAMED, cutoff=0.3)
    if spec.output_stride == PUBLISHED_STRIDE:
        near = [*PUBLISHED_ENCODERS, *near]
    return (
        f"output_stride = 32 leaves it as it is; {', '.join(near)} do, as do timm's families "
        f"{', '.join(STRIDED_FAMILIES)} (timm.list_models(module=FAMILY))"
    )


def _published(spec: EncoderSpec) -> Any:
    fixed: dict[str, Any] = {"output_stride": PUBLISHED_STRIDE, "dilated": True, "pad_type": "", "drop_path": 0.0}
    fixed["reparameterised"] = False
    _require_values(spec, fixed)
    return build_published(spec.name, pretrained=spec.pretrained)


def _require_values(spec: EncoderSpec, fixed: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that has another value than the only one that this encoder allows."""
    for name, value in fixed.items():
        if (given := getattr(spec, name)) != value:
            raise ValueError(f"{name} is {given!r}; encoder {spec.name!r} allows only {name} = {value!r}")


def settle_network(network: nn.Module, *, spec: EncoderSpec, **arguments: Any) -> Any:
    """Undo the dilation and fuse the branches, if `spec` requires it; `arguments` as given to `create_network`."""
    if spec.name not in PUBLISHED_ENCODERS and not spec.dilated and spec.output_stride != _NATIVE_STRIDE:
        native_arguments = {key: value for key, value in spec.timm_arguments.items() if key != "output_stride"}
        undo_dilation(network, native=timm.create_model(spec.name, **native_arguments, **arguments))
    if not spec.reparameterised:
        return network
    fused = reparameterize_model(network.eval())
    if fused.state_dict().keys() == network.state_dict().keys():
        raise ValueError(f"encoder {spec.name!r} has no branches to fuse; set reparameterised = False")
    return fused.train()


def undo_dilation(network: nn.Module, *, native: nn.Module) -> None:
    """Give every convolution the dilation it has in `native`, and the padding that keeps its output grid."""
    native_convolutions = dict(native.named_modules())
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        dilation: tuple[int, ...] = native_convolutions[name].dilation
        # Conv2dSame computes its padding at every call; the others need less padding, as their window is smaller.
        if not isinstance(layer, Conv2dSame) and layer.dilation != dilation:
            lost = [
                (now - then) * (size - 1)
                for now, then, size in zip(layer.dilation, dilation, layer.kernel_size, strict=True)
            ]
            if isinstance(layer.padding, str) or any(pixels % 2 for pixels in lost):
                raise ValueError(
                    f"dilated = False is impossible here: {name} with its {list(layer.kernel_size)} kernel would shift "
                    "the grid; set dilated = True or choose another encoder"
                )
            layer.padding = tuple(padding - pixels // 2 for padding, pixels in zip(layer.padding, lost, strict=True))
        layer.dilation = dilation


def check_name(name: str) -> None:
    """Raise ValueError, with similar names, for a name that timm does not know."""
    if timm.is_model(name) or name in PUBLISHED_ENCODERS:
        return
    nearest = difflib.get_close_matches(name, [*PUBLISHED_ENCODERS, *timm.list_models()], n=_NUM_NAMED, cutoff=0.5)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else "see timm.list_models()"
    raise ValueError(f"unknown encoder {name!r}; {hint}")


def check_encoder(spec: EncoderSpec, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise the errors of `build_encoder`, and for weights with another input normalisation; loads no weights."""
    check_name(spec.name)
    with torch.device("meta"):
        encoder = build_encoder(replace(spec, pretrained="none"))
    if spec.name in PUBLISHED_ENCODERS:
        if spec.weight_file is not None:
            check_published_file(encoder.network, spec.weight_file, name=spec.name, mean=mean, std=std)
        elif spec.pretrained == "imagenet":
            check_published_weights(spec.name)
        return
    if spec.weight_file is not None:
        require_weight_file(spec.weight_file)
        with safe_open(spec.weight_file, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        shapes = drop_classifier(shapes, network=encoder.network)
        described, origin = f"encoder {spec.name!r}", f"pretrained = {str(spec.weight_file)!r}"
        require_fit(encoder.network, shapes=shapes, described=described, origin=origin)
    if spec.pretrained == "imagenet":
        _require_published(spec.name)
        wanted = timm.get_pretrained_cfg(spec.name)
        if (tuple(wanted.mean), tuple(wanted.std)) != (tuple(mean), tuple(std)):
            raise ValueError(
                f"mean = {list(mean)} and std = {list(std)}: timm's weights of {spec.name!r} need mean = "
                f"{list(wanted.mean)} and std = {list(wanted.std)}; set these values"
            )


def _require_published(name: str) -> None:
    if not is_model_pretrained(name):
        raise ValueError(
            f"pretrained = 'imagenet': timm has no weights for {name!r}; give 'none' or a .safetensors file"
        )
