from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.grad_cam import METHODS, Method, elementwise_grad_cam, grad_cam, grad_cam_pp, pooled_map

B, D, K, H, W = 2, 5, 3, 7, 11


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    activations = torch.randn(B, D, H, W, generator=generator, dtype=torch.float64)
    gradients = torch.randn(K, B, D, H, W, generator=generator, dtype=torch.float64)
    gradients[0, 0, 1] = 0  # a channel that a class does not read
    return activations, gradients


def weight_by_definition(method: Method, activation_hw: Tensor, gradient_hw: Tensor) -> float:
    if method == "grad_cam":
        return float(gradient_hw.sum()) / (H * W)
    total, weight = float(activation_hw.sum()), 0.0
    for row in range(H):
        for column in range(W):
            g = float(gradient_hw[row, column])
            weight += max(g, 0.0) * g**2 / (2 * g**2 + g**3 * total + 1e-6)
    return weight


@pytest.mark.parametrize("method", METHODS)
def test_by_definition(method: Method) -> None:
    activations, gradients = drawn()
    maps = METHODS[method](activations, gradients_KBDhw=gradients)
    assert maps.shape == (B, K, H, W) and maps.min() < 0
    for b in range(B):
        for k in range(K):
            expected = torch.zeros(H, W, dtype=torch.float64)
            for d in range(D):
                gradient = gradients[k, b, d]
                if method == "elementwise_grad_cam":
                    expected += gradient * activations[b, d]
                else:
                    expected += weight_by_definition(method, activations[b, d], gradient) * activations[b, d]
            torch.testing.assert_close(maps[b, k], expected)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_classes_permutes_maps_and_no_class_gives_none(method: Method) -> None:
    activations, gradients = drawn()
    maps = METHODS[method](activations, gradients_KBDhw=gradients)
    torch.testing.assert_close(METHODS[method](activations, gradients_KBDhw=gradients[[2, 0, 1]]), maps[:, [2, 0, 1]])
    assert METHODS[method](activations, gradients_KBDhw=gradients[:0]).shape == (B, 0, H, W)


def test_gradients_that_are_constant_over_the_image_make_the_elementwise_form_grad_cam() -> None:
    activations, gradients = drawn()
    constant = gradients.mean(dim=(-2, -1), keepdim=True).expand_as(gradients)
    torch.testing.assert_close(
        grad_cam(activations, gradients_KBDhw=constant), elementwise_grad_cam(activations, gradients_KBDhw=constant)
    )


def test_shapes_that_do_not_fit() -> None:
    activations, gradients = drawn()
    for function in (grad_cam, grad_cam_pp, elementwise_grad_cam):
        with pytest.raises(ValueError, match=r"allowed: \[B,D,h,w\] and \[K,B,D,h,w\]"):
            function(activations, gradients_KBDhw=gradients[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_views_of_all_sizes_weigh_alike(method: Method, scale: float) -> None:
    """The same picture four times side by side: behind a mean over four times the pixels, gradients are a quarter."""
    activations, gradients = drawn()
    activations, gradients = activations.abs(), scale * gradients / (H * W)
    one = pooled_map(method, activations, gradients_KBDhw=gradients, num_pixels=H * W)
    tiled = pooled_map(method, activations.tile(2, 2), gradients_KBDhw=gradients.tile(2, 2) / 4, num_pixels=4 * H * W)
    torch.testing.assert_close(tiled, one.tile(2, 2), rtol=1e-6, atol=1e-12)
