"""Frozen batch normalisation: statistics and affine terms that no training step, optimiser or rank changes."""

from __future__ import annotations

from timm.layers import BatchNormAct2d
from torch import nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that is always in evaluation mode and has buffers instead of parameters.

    y = (x - running_mean) / sqrt(running_var + eps) * weight + bias, x: [B,D,h,w]. The state dict has the keys of the
    layer it replaces, so checkpoints are interchangeable.
    """

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stay in evaluation mode whatever the mode of the network around it."""
        super().train(False)
        return self


class FrozenBatchNormAct2d(BatchNormAct2d):
    """As `FrozenBatchNorm2d`, for timm's layer that includes an activation; the activation is kept."""

    def train(self, mode: bool = True) -> FrozenBatchNormAct2d:
        """Stay in evaluation mode whatever the mode of the network around it."""
        super().train(False)
        return self


_FROZEN_CLASS: dict[type[nn.Module], type[nn.BatchNorm2d]] = {
    nn.BatchNorm2d: FrozenBatchNorm2d,
    BatchNormAct2d: FrozenBatchNormAct2d,
}


def has_batch_norm(module: nn.Module) -> bool:
    """Whether there is a batch normalisation inside `module`, frozen or not."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


def freeze_batch_norm(module: nn.Module) -> int:
    """Freeze every batch normalisation inside `module`, in place, and return the number of frozen layers.

    Statistics no longer follow the batch; `weight` and `bias` become buffers, so neither `.train()` nor
    `.requires_grad_(True)` unfreezes them. Call it before an optimiser collects the parameters.

    Raises: ValueError for a batch normalisation of another kind, or one that keeps no statistics.
    Source: the fixed batch normalisation of Ahn, Cho and Kwak, CVPR 2019 (IRN), in its classifier and its IRNet.
    Differs: as published; the layer itself is modified, so activations and hooks are kept.
    """
    num_frozen = 0
    for name, layer in module.named_modules():
        if isinstance(layer, FrozenBatchNorm2d | FrozenBatchNormAct2d):
            num_frozen += 1
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            _freeze(layer, name=name or "(the module itself)")
            num_frozen += 1
    return num_frozen


def _freeze(layer: nn.modules.batchnorm._BatchNorm, *, name: str) -> None:
    frozen_class = _FROZEN_CLASS.get(type(layer))
    if frozen_class is None:
        allowed = ", ".join(kind.__name__ for kind in _FROZEN_CLASS)
        raise ValueError(f"{name} is a {type(layer).__name__}; only {allowed} can be frozen: choose another encoder")
    if layer.running_mean is None:
        raise ValueError(f"{name} keeps no running statistics, so it cannot be frozen: choose another encoder")
    # Swapping the class keeps hooks, the activation and every reference that other modules hold to this layer.
    layer.__class__ = frozen_class
    for key in ("weight", "bias"):
        parameter = getattr(layer, key)
        if parameter is not None:
            delattr(layer, key)
            layer.register_buffer(key, parameter.detach())
    layer.eval()
