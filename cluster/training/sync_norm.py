"""Batch normalisation over the batches of all ranks, on any backend (torch's SyncBatchNorm rejects CPU tensors)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F


class _SumOverRanks(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SynchronisedBatchNorm(nn.Module):
    """Batch normalisation with mean and variance of the global batch.

    One differentiable all-reduce of (sum, sum of squares, count) per layer: mean = S1 / n, var = S2 / n - mean^2.
    State-dict keys are the same as in `nn.BatchNorm2d`; the activation of timm's fused norms is kept.
    Input and output f32[B, D, H, W]. Running statistics are equal on all ranks by construction.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.momentum = norm.eps, norm.momentum
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())
        self.present = True
        """False during a dummy forward pass: this rank's batch is normalised, but not included in the statistics."""

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, x_BDHW: torch.Tensor) -> torch.Tensor:
        if self.training:
            mean, variance = self._global_moments(x_BDHW)
            scale = self.weight * torch.rsqrt(variance + self.eps)
            y = (x_BDHW * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]).to(x_BDHW.dtype)
        else:
            y = F.batch_norm(x_BDHW, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        result: torch.Tensor = self.act(self.drop(y))
        return result

    def _global_moments(self, x_BDHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x_BDHW = x_BDHW.float()  # sums in bf16 are too imprecise for the variance
        count = x_BDHW.new_full((1,), x_BDHW.numel() / x_BDHW.shape[1])
        sums = torch.cat([x_BDHW.sum((0, 2, 3)), x_BDHW.square().sum((0, 2, 3)), count]) * float(self.present)
        if dist.is_initialized() and dist.get_world_size() > 1:
            sums = _SumOverRanks.apply(sums)
        first, second, total = sums[: x_BDHW.shape[1]], sums[x_BDHW.shape[1] : -1], sums[-1]
        mean = first / total
        variance = (second / total - mean.square()).clamp_min(0.0)
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            unbiased = variance * total / (total - 1).clamp_min(1.0)
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(unbiased.detach(), momentum)
            self.num_batches_tracked += 1
        return mean, variance


class TorchSynchronisedBatchNorm(nn.SyncBatchNorm):
    """torch's own synchronised norm, which supports only GPUs, as a replacement for a norm of timm or torch.

    Faster than ours, but it includes every rank's batch. Used only if no batch is short.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x_BDHW: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.act(self.drop(super().forward(x_BDHW)))
        return result


_Norm = TypeVar("_Norm", SynchronisedBatchNorm, TorchSynchronisedBatchNorm)


def synchronise_norms(module: nn.Module, *, layer: Callable[[nn.BatchNorm2d], _Norm]) -> list[_Norm]:
    """Replace every trainable `nn.BatchNorm2d` inside `module`, in place, and return the new layers.

    Parameters and buffers are kept. Frozen norms, whose weight is not a parameter, are not replaced.
    """
    made: list[_Norm] = []
    for name, child in list(module.named_children()):
        if not isinstance(child, nn.BatchNorm2d):
            made += synchronise_norms(child, layer=layer)
        elif isinstance(child.weight, nn.Parameter):
            made.append(layer(child))
            setattr(module, name, made[-1])
    return made
