"""A segmenter's weights in the DeepLabv3+ of segmentation_models_pytorch as that package builds it.

The networks differ in one layer: the norm of the ASPP's image pooling, which has one value per channel. Here it is a
GroupNorm over all channels, so that an image can be normalised alone; there it is a BatchNorm. All other layers are the
same modules with the same names. In evaluation a BatchNorm is one straight line per channel, so the layer is replaced
by the lines that fit its output on some images best (least squares); predictions are then nearly the same.

Shape letters: `N` images, `D` channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import nn

from wsss.models.encoder import EncoderSpec
from wsss.models.segmenter import Segmenter, plain_deeplabv3plus
from wsss.models.vision_transformer import is_vision_transformer

_FLAT = 1e-12


def refuse_other_encoders(spec: EncoderSpec) -> None:
    """Raise ValueError for encoders that segmentation_models_pytorch cannot build."""
    if is_vision_transformer(spec.name):
        raise ValueError(
            f"encoder = {spec.name!r}: the DeepLabv3+ of segmentation_models_pytorch takes no vision transformer; "
            "export --weights instead"
        )
    if not spec.dilated and spec.output_stride != 32:
        raise ValueError(
            "dilated = False: segmentation_models_pytorch dilates an encoder whose strides it removes, so its network "
            "is another one; export ONNX instead"
        )
    if spec.reparameterised:
        raise ValueError(
            "reparameterised = True: segmentation_models_pytorch builds this encoder with its branches, so the fused "
            "weights have no place in it; export ONNX instead"
        )


@torch.inference_mode()
def as_plain_smp(
    segmenter: Segmenter,
    images: Iterable[torch.Tensor],
    *,
    spec: EncoderSpec,
    num_classes: int,
    atrous_rates: tuple[int, int, int],
    decoder_channels: int,
    dropout: float,
) -> Any:
    """smp.DeepLabV3Plus in evaluation mode with the segmenter's weights, loaded strictly.

    `images`: normalised f32[1, 3, H, W], on which the lines are fitted; other arguments as in `build_segmenter`.
    Raises ValueError without images.
    """
    refuse_other_encoders(spec)
    plain = plain_deeplabv3plus(
        spec, num_classes=num_classes, atrous_rates=atrous_rates, decoder_channels=decoder_channels, dropout=dropout
    )
    state = segmenter.network.state_dict()
    name, norm = _pooling_norm(plain)
    state |= {f"{name}.{key}": value for key, value in _fitted(segmenter, images, like=norm).items()}
    plain.load_state_dict(state, strict=True)
    return plain.eval()


def _pooling_norm(network: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the norm in the ASPP's image pooling."""
    for name, module in network.named_modules():
        if isinstance(module, ASPPPooling):
            for index, layer in enumerate(module):
                if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
                    return f"{name}.{index}", layer
    raise ValueError("this network has no image pooling")


def _fitted(segmenter: Segmenter, images: Iterable[torch.Tensor], *, like: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a BatchNorm whose line per channel fits the GroupNorm's output on these images."""
    assert isinstance(like, nn.BatchNorm2d)
    _, norm = _pooling_norm(segmenter.network)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = norm.register_forward_hook(lambda _, given, made: seen.append((given[0].flatten(), made.flatten())))
    try:
        for image_13HW in images:
            segmenter.strided_logits(image_13HW)
    finally:
        handle.remove()
    if not seen:
        raise ValueError("no image was given, from which the norm of the image pooling could be fitted")
    before_ND, after_ND = (torch.stack(part).double().cpu() for part in zip(*seen, strict=True))
    mean_D, variance_D = before_ND.mean(0), before_ND.var(0, unbiased=False)
    covariance_D = ((before_ND - mean_D) * (after_ND - after_ND.mean(0))).mean(0)
    slope_D = torch.where(variance_D > _FLAT, covariance_D / variance_D.clamp_min(_FLAT), torch.zeros(()).double())
    return {
        "weight": (slope_D * (variance_D + like.eps).sqrt()).float(),
        "bias": after_ND.mean(0).float(),
        "running_mean": mean_D.float(),
        "running_var": variance_D.float(),
        "num_batches_tracked": torch.tensor(len(seen)),
    }
