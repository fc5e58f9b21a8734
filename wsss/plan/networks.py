"""Floating point operations and parameters of a recipe's networks, counted by passes on the meta device.

Shape letters: `B` images, `H W` pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wsss.contract.fit import Fit
from wsss.contract.stage import Instance
from wsss.plan.costs import PlanError

_NUM_IMAGES = 2
"""Images of a counted pass: batch normalisation rejects a batch of one pixel."""
_ADDRESS = re.compile(" at 0x[0-9a-f]+")
_OWN_OF_TORCH = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class Training:
    """One step of a training, per example."""

    flops: float
    """Forward and backward; a multiplication and an addition count as two."""
    parameters: int
    """Trainable parameters, whose gradients ranks exchange."""


class Networks:
    """Counts operations and parameters, with a cache.

    Recipes that compare methods train the same network many times: a count is reused for all networks of the same
    structure.
    """

    def __init__(self) -> None:
        self._structures: dict[str, str] = {}
        self._models: dict[str, nn.Module] = {}
        self._passes: dict[tuple[str, tuple[int, int], str], float] = {}
        self._trainings: dict[tuple[str, int], Training] = {}

    def training(self, instance: Instance, crop_size: int) -> Training:
        """Counts for a `Fit` instance with crops of `crop_size` pixels. Only trainable parts have a backward pass."""
        structure, size = self._structure(instance), (crop_size, crop_size)
        if (structure, crop_size) not in self._trainings:
            model = self._models[structure].train()
            flops = _counted(lambda: _backward(_forward_pass(instance, model, _images(size)))) / _NUM_IMAGES
            self._trainings[structure, crop_size] = Training(flops, _learned(model))
        return self._trainings[structure, crop_size]

    def parameters(self, instance: Instance) -> int:
        """Number of trainable parameters of a `Fit` instance."""
        return _learned(self._models[self._structure(instance)])

    def forward(self, instance: Instance, size: tuple[int, int], *, method: str = "") -> float:
        """Operations of one pass of one image of `size` = (H, W) through the network that `instance` trains.

        `method`: a method of the network to call with the images instead of the stage's `forward_pass`.
        """
        structure = self._structure(instance)
        if (structure, size, method) not in self._passes:
            model = self._models[structure].eval()
            images = _images(size)
            with torch.no_grad():
                flops = _counted(
                    lambda: getattr(model, method)(images) if method else _forward_pass(instance, model, images)
                )
            self._passes[structure, size, method] = flops / _NUM_IMAGES
        return self._passes[structure, size, method]

    def count(
        self, instance: Instance, size: tuple[int, int], *, name: str, call: Callable[[Any, Any], object]
    ) -> float:
        """Operations per image of `call(network, images)`; `network` is a new one, which `call` may change."""
        key = (self._structure(instance), size, f"call: {name}")
        if key not in self._passes:
            model = _model(instance).eval()
            self._passes[key] = _counted(lambda: call(model, _images(size))) / _NUM_IMAGES
        return self._passes[key]

    def _structure(self, instance: Instance) -> str:
        """Equal for instances whose networks do the same computation; one network of each structure is kept."""
        if instance.fingerprint not in self._structures:
            model = _model(instance)
            structure = _structure_of(model, instance)
            self._structures[instance.fingerprint] = structure
            self._models.setdefault(structure, model)
        return self._structures[instance.fingerprint]


def _model(instance: Instance) -> nn.Module:
    assert isinstance(instance.stage, Fit), f"{instance.name} trains no network"
    try:
        with torch.device("meta"):
            return instance.stage.model(instance, pretrained=False)
    except ValueError as error:
        raise PlanError(f"the network of {instance.name} cannot be built: {error}") from error


def _learned(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _structure_of(model: nn.Module, instance: Instance) -> str:
    """A digest of all modules in order, their plain attributes, the shapes of their tensors, and how it is called."""
    assert isinstance(instance.stage, Fit)
    parts: list[object] = [len(instance.taxonomy), type(instance.stage).forward_pass.__qualname__]
    for name, module in model.named_modules():
        own = (
            {} if isinstance(module, nn.Dropout) else vars(module)
        )  # its rate does not change the number of operations
        plain = {key: _in_words(value) for key, value in own.items() if key not in _OWN_OF_TORCH}
        tensors = [(key, tuple(p.shape), p.requires_grad) for key, p in module.named_parameters(recurse=False)]
        tensors += [(key, tuple(b.shape), False) for key, b in module.named_buffers(recurse=False)]
        parts.append((name, type(module).__qualname__, sorted(plain.items(), key=lambda item: item[0]), tensors))
    return sha256(repr(parts).encode()).hexdigest()


def _in_words(value: object, *, depth: int = 3) -> str:
    """The repr of a value without memory addresses; an object with the default repr is described by its attributes."""
    text = repr(value)
    if (without := _ADDRESS.sub("", text)) == text or callable(value) or not depth or not hasattr(value, "__dict__"):
        return without
    inside = {key: _in_words(one, depth=depth - 1) for key, one in vars(value).items()}
    return f"{type(value).__qualname__} {inside}"


def _images(size: tuple[int, int]) -> Tensor:
    return torch.zeros(_NUM_IMAGES, 3, *size, device="meta")


def _forward_pass(instance: Instance, model: nn.Module, image_B3HW: Tensor) -> Any:
    assert isinstance(instance.stage, Fit)
    return instance.stage.forward_pass(model, image_B3HW, instance)


class _Operations(TorchDispatchMode):
    """Sums the operations executed in its context, with torch's own formulas.

    Differs from torch's counter in two ways. Torch 2.15 counts the backward pass of a grouped convolution as if it had
    no groups (seven times too many for training a MobileNetV2). And torch's counter tracks modules, which breaks the
    hooks of LayerGradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet is torch.ops.aten.convolution_backward:
            self.total += _back_through_convolution(*args)
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def _back_through_convolution(gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> float:
    """Gradients of the input and of the weights: each costs as much as the forward pass."""
    _, _, _, _, transposed, _, _, wanted = rest
    positions = x.numel() if transposed else gradient.numel()
    return 2.0 * positions * math.prod(weight.shape[1:]) * sum(wanted[:2])


def _counted(call: Callable[[], Any]) -> float:
    with _Operations() as counter:
        call()
    return counter.total


def _backward(outputs: Any) -> None:
    parts = outputs if isinstance(outputs, tuple | list) else (outputs,)
    total = sum(part.float().sum() for part in parts if isinstance(part, Tensor) and part.requires_grad)
    assert isinstance(total, Tensor), "this network has no trainable parameters"
    total.backward()
