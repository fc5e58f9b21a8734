"""Convolutions whose weights are stored in the order that oneDNN's kernels read, for networks that are only read from.

Shape letters: B batch, D channels, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_CHANNELS_LAST = torch.channels_last
"""In this order of memory oneDNN reads and writes without reordering. Only a network's first input is copied."""


def can_pack() -> bool:
    """Whether this torch has oneDNN, with the operations that its own compiler uses for packed weights."""
    wanted = ("_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in wanted)


def is_packable(conv: nn.Conv2d) -> bool:
    """Whether the classes below compute what this convolution does: zeros around the image, float32."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and conv.weight.dtype == torch.float32


class PackedConv2d(nn.Module):
    """A convolution whose weight is in oneDNN's order, without gradients; made for inputs of about the given size
    [B,D,H,W]."""

    def __init__(self, conv: nn.Conv2d, *, input_size: tuple[int, ...]) -> None:
        super().__init__()
        self._geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        self._weight = reorder(conv.weight.detach(), *self._geometry, list(input_size))
        self.bias = conv.bias

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """As the convolution that it was made of."""
        x_BDHW = x_BDHW.contiguous(memory_format=_CHANNELS_LAST)
        run = torch.ops.mkldnn._convolution_pointwise
        y_BDHW: Tensor = run(x_BDHW, self._weight, self.bias, *self._geometry, "none", [], "")
        return y_BDHW


class DifferentiablePackedConv2d(nn.Module):
    """`PackedConv2d` with the gradient of its input, computed by a packed convolution too; its weight has none.

    The gradient of y = x * w with stride 1 is that of y convolved with w, its axes of channels exchanged within each
    group and its rows and columns reversed. With a larger stride, or more padding than such a convolution can undo,
    it is torch's own.
    """

    def __init__(self, conv: nn.Conv2d, *, input_size: tuple[int, ...], output_size: tuple[int, ...]) -> None:
        """Made for inputs and outputs [B,D,H,W] of about these sizes."""
        super().__init__()
        self.direct = PackedConv2d(conv, input_size=input_size)
        self.reverse = _reverse(conv, size=output_size)
        self._weight = conv.weight.detach().contiguous(memory_format=_CHANNELS_LAST)
        self._geometry = (list(conv.stride), list(conv.padding), list(conv.dilation), False, [0, 0], conv.groups)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """As the convolution that it was made of."""
        y_BDHW: Tensor = _Convolution.apply(x_BDHW, self)
        return y_BDHW

    def gradient(self, gradient_BDHW: Tensor, *, input_size: torch.Size) -> Tensor:
        """The gradient of an input of this size, from that of the output."""
        if self.reverse is not None:
            reversed_BDHW: Tensor = self.reverse(gradient_BDHW)
            return reversed_BDHW
        gradient_BDHW = gradient_BDHW.contiguous(memory_format=_CHANNELS_LAST)
        # Only the size of the input is read.
        x_BDHW = torch.empty(input_size, dtype=gradient_BDHW.dtype, memory_format=_CHANNELS_LAST)
        of_input: Tensor
        of_input, _, _ = torch.ops.aten.convolution_backward(
            gradient_BDHW, x_BDHW, self._weight, None, *self._geometry, [True, False, False]
        )
        return of_input


def _reverse(conv: nn.Conv2d, *, size: tuple[int, ...]) -> PackedConv2d | None:
    """The convolution that gives the gradient of the input of `conv` from that of its output, if there is one."""
    spans = [step * (taps - 1) for step, taps in zip(conv.dilation, conv.kernel_size, strict=True)]
    assert not isinstance(conv.padding, str)  # `is_packable`
    padding = [span - given for span, given in zip(spans, conv.padding, strict=True)]
    if tuple(conv.stride) != (1, 1) or min(padding) < 0:
        return None
    weight = conv.weight.detach().unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1).flip(-1, -2)
    made = nn.Conv2d(
        conv.out_channels,
        conv.in_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        padding=(padding[0], padding[1]),
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=False,
        device="meta",
    )
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return PackedConv2d(made, input_size=size)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BDHW: Tensor, layer: DifferentiablePackedConv2d) -> Tensor:
        ctx.layer, ctx.input_size = layer, x_BDHW.shape
        y_BDHW: Tensor = layer.direct(x_BDHW)
        return y_BDHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BDHW: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.gradient(gradient_BDHW, input_size=ctx.input_size), None
