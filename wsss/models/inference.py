"""Make a trained network faster without changing what it computes: for networks that are only read from.

Shape letters: B batch, D channels, H W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wsss.models.norm import FrozenBatchNorm2d, FrozenBatchNormAct2d

Network = TypeVar("Network", bound=nn.Module)

_PROBE_SIZE = (97, 65)
_USUAL_SIZE = (193, 257)
"""oneDNN chooses the order of the weights for a size of image. For this one a ResNet-50 takes two thirds of the time at
all sizes of 190 to 750 pixels; for the probe's size it gains a tenth."""
_TOLERANCE = 1e-3
"""Largest difference, relative to the largest output. Rounding makes differences of 1e-4, a wrong fold of 1."""
_NORMS = (nn.BatchNorm2d, BatchNormAct2d, FrozenBatchNorm2d, FrozenBatchNormAct2d)


def for_inference(
    network: Network, *, look: Callable[[Network, Tensor], Any] | None = None, gradients: bool = False
) -> Network:
    """A copy of a network in evaluation mode that gives the same outputs in less time.

    Batch normalisations are folded into the convolutions before them: w' = w g / s, b' = (b - m) g / s + c, with
    running mean m, standard deviation s = sqrt(variance + eps), factors g and terms c. On a CPU with oneDNN the
    convolutions' weights are also stored in the order that its kernels read; else it arranges them for every image.
    That is left out with `gradients`, since such a convolution has none; without it the copy gives no gradients.

    `look(network, images f32[B,3,H,W])` runs the parts that will be used, by default the whole network; it is called
    with a picture of noise, to see which normalisation reads which convolution. Its outputs, a tensor or several, are
    compared: if they differ, the network itself is returned, since it has another path between two such layers.

    Source: folding is Jacob et al., CVPR 2018, eq. 14.  Differs: as published, in float32.
    """
    if (first := next(network.parameters(), None)) is None:
        return network
    device = first.device
    probe = torch.randn(1, 3, *_PROBE_SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    run = look or (lambda whole, images: whole(images))
    with torch.inference_mode():
        expected = _tensors(run(network, probe))
    with torch.no_grad():
        made = copy.deepcopy(network)
        _fold(made, _pairs(made, lambda: run(made, probe)))
        if device.type == "cpu" and not gradients and _can_pack():
            _pack(made, lambda: run(made, torch.zeros(1, 3, *_USUAL_SIZE)))
    with torch.inference_mode():
        found = _tensors(run(made, probe))
    return made if all(map(_is_close, found, expected)) else network


def _tensors(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    same = found.shape == expected.shape
    return same and bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _pairs(network: nn.Module, run: Callable[[], Any]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the normalisations that read their outputs; each layer runs once."""
    outputs: list[tuple[nn.Conv2d, Tensor]] = []
    inputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
    handles = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            handles.append(layer.register_forward_hook(lambda conv, _, output: outputs.append((conv, output))))
        elif type(layer) in _NORMS and layer.running_mean is not None:
            handles.append(layer.register_forward_pre_hook(lambda norm, given: inputs.append((norm, given[0]))))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    made_by = {id(output): conv for conv, output in outputs}
    found = [(made_by[id(given)], norm) for norm, given in inputs if id(given) in made_by]
    layers = [layer for pair in found for layer in pair]
    runs = [layer for layer, _ in (*outputs, *inputs)]
    return [pair for pair in found if all(layers.count(layer) == runs.count(layer) == 1 for layer in pair)]


def _fold(network: nn.Module, pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> None:
    names = {layer: name for name, layer in network.named_modules()}
    for conv, norm in pairs:
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        _replace(network, names[norm], norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, layer)


def _can_pack() -> bool:
    """Whether this torch has oneDNN, with the operations that its own compiler uses for packed weights."""
    wanted = ("_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in wanted)


class PackedConv2d(nn.Module):
    """A convolution whose weight is in oneDNN's order; made for inputs of about the given size [B,D,H,W]."""

    def __init__(self, conv: nn.Conv2d, *, input_size: tuple[int, ...]) -> None:
        super().__init__()
        self._geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        self._weight = reorder(conv.weight.detach(), *self._geometry, list(input_size))
        self.bias = conv.bias

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """As the convolution that it was made of."""
        # In this order of memory oneDNN reads and writes without reordering. Only the first layer's input is copied.
        x_BDHW = x_BDHW.contiguous(memory_format=torch.channels_last)
        run = torch.ops.mkldnn._convolution_pointwise
        y_BDHW: Tensor = run(x_BDHW, self._weight, self.bias, *self._geometry, "none", [], "")
        return y_BDHW


def _pack(network: nn.Module, run: Callable[[], Any]) -> None:
    sizes: dict[nn.Conv2d, tuple[int, ...]] = {}
    convolutions = [(name, one) for name, one in network.named_modules() if type(one) is nn.Conv2d]
    handles = [
        one.register_forward_pre_hook(lambda conv, given: sizes.__setitem__(conv, tuple(given[0].shape)))
        for _, one in convolutions
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for name, conv in convolutions:
        usual = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        if conv in sizes and usual and conv.weight.dtype == torch.float32:
            _replace(network, name, PackedConv2d(conv, input_size=sizes[conv]))
