"""Make a trained network faster without changing what it computes: for networks that are only read from.

Shape letters: B batch, D channels, H W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wsss.models.norm import FrozenBatchNorm2d, FrozenBatchNormAct2d
from wsss.models.packed_convolution import DifferentiablePackedConv2d, PackedConv2d, can_pack, is_packable

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
    The copy gives gradients, of the images and of what is between, only with `gradients`; parameters have none.

    `look(network, images f32[B,3,H,W])` runs the parts that will be used, by default the whole network; it is called
    with a picture of noise, to see which normalisation reads which convolution. Its outputs, a tensor or several, are
    compared: if they differ, the network itself is returned, since it has another path between two such layers. On a
    GPU they are compared in float32: TF32, which cuDNN uses for convolutions by default, rounds to 1e-3.

    Source: folding is Jacob et al., CVPR 2018, eq. 14.  Differs: as published, in float32.
    """
    if (first := next(network.parameters(), None)) is None:
        return network
    device = first.device
    probe = torch.randn(1, 3, *_PROBE_SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    run = look or (lambda whole, images: whole(images))
    with torch.inference_mode(), _without_tf32():
        expected = _tensors(run(network, probe))
    with torch.no_grad():
        made = copy.deepcopy(network)
        _fold(made, _pairs(made, lambda: run(made, probe)))
        if device.type == "cpu" and can_pack():
            _pack(made, lambda: run(made, torch.zeros(1, 3, *_USUAL_SIZE)), gradients=gradients)
    with torch.inference_mode(), _without_tf32():
        found = _tensors(run(made, probe))
    return made if all(map(_is_close, found, expected)) else network


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


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


def _pack(network: nn.Module, run: Callable[[], Any], *, gradients: bool) -> None:
    sizes: dict[nn.Conv2d, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    convolutions = [(name, one) for name, one in network.named_modules() if type(one) is nn.Conv2d]

    def keep_sizes(conv: nn.Conv2d, given: tuple[Tensor, ...], output: Tensor) -> None:
        sizes[conv] = tuple(given[0].shape), tuple(output.shape)

    handles = [one.register_forward_hook(keep_sizes) for _, one in convolutions]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for name, conv in convolutions:
        if conv not in sizes or not is_packable(conv):
            continue
        of_input, of_output = sizes[conv]
        if gradients:
            packed = DifferentiablePackedConv2d(conv, input_size=of_input, output_size=of_output)
            _replace(network, name, packed)
        else:
            _replace(network, name, PackedConv2d(conv, input_size=of_input))
