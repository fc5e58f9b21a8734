from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from wsss.models.packed_convolution import DifferentiablePackedConv2d, PackedConv2d, can_pack, is_packable

pytestmark = pytest.mark.skipif(not can_pack(), reason="NOT RUN: this torch has no oneDNN")
GEOMETRIES: list[tuple[int, int, dict[str, Any]]] = [
    (5, 7, {"kernel_size": 1}),
    (5, 7, {"kernel_size": 3, "padding": 1}),
    (5, 7, {"kernel_size": 3}),
    (5, 7, {"kernel_size": (3, 5), "padding": (0, 2)}),
    (5, 7, {"kernel_size": 3, "padding": 3, "dilation": 3}),
    (7, 7, {"kernel_size": 5, "padding": 2, "groups": 7}),
    (6, 10, {"kernel_size": 3, "padding": 1, "groups": 2}),
    (7, 7, {"kernel_size": 3, "padding": 1, "groups": 7, "stride": 2}),
    (5, 7, {"kernel_size": 7, "padding": 3, "stride": 2}),
    (5, 7, {"kernel_size": 1, "stride": 2}),
    (5, 7, {"kernel_size": 1, "padding": 2}),  # padding that no convolution of the gradient undoes
]


def convolution(geometry: tuple[int, int, dict[str, Any]], *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(3)
    return nn.Conv2d(geometry[0], geometry[1], bias=bias, **geometry[2]).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda one: " ".join(f"{k}={v}" for k, v in one[2].items()))
def test_outputs_and_gradients_are_those_of_the_convolution(
    geometry: tuple[int, int, dict[str, Any]], bias: bool
) -> None:
    """At another size and batch than they were made for."""
    conv = convolution(geometry, bias=bias)
    made_for = torch.zeros(1, geometry[0], 29, 31)
    packed = DifferentiablePackedConv2d(conv, input_size=tuple(made_for.shape), output_size=tuple(conv(made_for).shape))
    x = torch.randn(2, geometry[0], 13, 11, generator=torch.Generator().manual_seed(5))
    found, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(packed(found), conv(wanted), rtol=1e-4, atol=1e-5)
    pulled = torch.randn(conv(x).shape, generator=torch.Generator().manual_seed(6))
    (got,) = torch.autograd.grad(packed(found), found, pulled)
    (expected,) = torch.autograd.grad(conv(wanted), wanted, pulled)
    assert expected.abs().max() > 0
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_gradient_passes_an_activation_in_place_and_can_be_taken_twice() -> None:
    """As networks use it: ReLU in place on the output, several classes from one forward pass."""
    conv = convolution((5, 7, {"kernel_size": 3, "padding": 1}))
    packed = DifferentiablePackedConv2d(conv, input_size=(1, 5, 13, 11), output_size=(1, 7, 13, 11))
    x = torch.randn(2, 5, 13, 11, generator=torch.Generator().manual_seed(7)).requires_grad_()
    for channel in (2, 4):
        kept = packed(x).relu_()
        first, again = (torch.autograd.grad(kept[:, channel].sum(), x, retain_graph=True)[0] for _ in range(2))
        (wanted,) = torch.autograd.grad(conv(x).relu()[:, channel].sum(), x)
        torch.testing.assert_close(first, wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(first, again)


def test_which_convolutions_can_be_packed() -> None:
    assert is_packable(nn.Conv2d(3, 5, 3, padding=1))
    assert not is_packable(nn.Conv2d(3, 5, 3, padding="same"))
    assert not is_packable(nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"))
    assert not is_packable(nn.Conv2d(3, 5, 3).double())


def test_without_gradients_the_output_is_the_same() -> None:
    conv = convolution((5, 7, {"kernel_size": 3, "padding": 1}))
    sizes: dict[str, Any] = {"input_size": (1, 5, 13, 11)}
    x = torch.randn(2, 5, 13, 11)
    with torch.no_grad():
        one = PackedConv2d(conv, **sizes)(x)
        assert torch.equal(DifferentiablePackedConv2d(conv, **sizes, output_size=(1, 7, 13, 11))(x), one)
