"""Class activation maps from gradients: Grad-CAM, Grad-CAM++ and the element-wise form (HiResCAM).

Every function takes a layer's activations A and the gradients G of the classes' logits with respect to them, and
returns signed maps: the caller applies the ReLU to the map of each view and sums the views, as irn does.

Shape letters: B batch, D channels, K classes, h w pixels of the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Method = Literal["grad_cam", "grad_cam_pp", "elementwise_grad_cam"]
LAST_LAYER = "last"
"""The layer that the classifier's head reads: after the whole encoder."""
_PP_EPS = 1e-6


def grad_cam(activations_BDhw: Tensor, *, gradients_KBDhw: Tensor) -> Tensor:
    """M_k = sum_d mean_q(G_kd(q)) A_d: each channel is weighted by its mean gradient.

    Shapes: [B,D,h,w] and [K,B,D,h,w]; result [B,K,h,w], signed, of the activations' dtype.

    Raises: ValueError for shapes that do not fit.

    Source: Selvaraju et al., ICCV 2017, eq. 1 and 2.  Differs: without the ReLU of eq. 2.
    """
    _require_shapes(activations_BDhw, gradients_KBDhw)
    return torch.einsum("kbd,bdhw->bkhw", gradients_KBDhw.mean(dim=(-2, -1)), activations_BDhw)


def grad_cam_pp(activations_BDhw: Tensor, *, gradients_KBDhw: Tensor, eps: float = _PP_EPS) -> Tensor:
    """M_k = sum_d w_kd A_d with w_kd = sum_q ReLU(G_kd(q)) a_kd(q), a = G^2 / (2 G^2 + G^3 sum_p A_d(p) + eps).

    Shapes: [B,D,h,w] and [K,B,D,h,w]; result [B,K,h,w], signed. a is 0 where G is 0. `eps` is not negligible: after
    average pooling, G^2 is about as small, so the map depends on the scale of the logits.

    Raises: ValueError for shapes that do not fit.

    Source: Chattopadhyay et al., WACV 2018, eq. 19 and the weights of eq. 11.  Differs: gradients of the logit, without
    the factor exp(logit), and with `eps`, as in the package grad-cam.
    """
    _require_shapes(activations_BDhw, gradients_KBDhw)
    squared = gradients_KBDhw.square()
    total_BD11 = activations_BDhw.sum(dim=(-2, -1), keepdim=True)
    share = squared / (2 * squared + total_BD11 * squared * gradients_KBDhw + eps)
    weights_KBD = (gradients_KBDhw.relu() * share).sum(dim=(-2, -1))
    return torch.einsum("kbd,bdhw->bkhw", weights_KBD, activations_BDhw)


def elementwise_grad_cam(activations_BDhw: Tensor, *, gradients_KBDhw: Tensor) -> Tensor:
    """M_k(q) = sum_d G_kd(q) A_d(q): each position is weighted by its own gradient.

    Shapes: [B,D,h,w] and [K,B,D,h,w]; result [B,K,h,w], signed.

    Raises: ValueError for shapes that do not fit.

    Source: Draelos and Carin, 2020 (HiResCAM), which is also the localisation of Lee et al., CVPR 2019 (FickleNet).
    Differs: without FickleNet's ReLU.
    """
    _require_shapes(activations_BDhw, gradients_KBDhw)
    return torch.einsum("kbdhw,bdhw->bkhw", gradients_KBDhw, activations_BDhw)


METHODS: dict[Method, Callable[..., Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "elementwise_grad_cam": elementwise_grad_cam,
}


def pooled_map(method: Method, activations_BDhw: Tensor, *, gradients_KBDhw: Tensor, num_pixels: int) -> Tensor:
    """The signed map of a method, rescaled as if a sum over pixels followed, instead of a mean over `num_pixels`.

    With average pooling over n pixels, gradients are 1/n of those with a sum, so maps of a large view would have less
    weight than those of a small one. Grad-CAM and the element-wise form are linear in G: n M. Grad-CAM++ does not
    depend on n except for its `eps`, which becomes eps / n^2. Shapes and errors: as for the methods.
    """
    if method == "grad_cam_pp":
        return grad_cam_pp(activations_BDhw, gradients_KBDhw=gradients_KBDhw, eps=_PP_EPS / num_pixels**2)
    return METHODS[method](activations_BDhw, gradients_KBDhw=gradients_KBDhw) * num_pixels


def _require_shapes(activations: Tensor, gradients: Tensor) -> None:
    if activations.ndim != 4 or gradients.ndim != 5 or gradients.shape[1:] != activations.shape:
        raise ValueError(
            f"activations are {list(activations.shape)}, gradients {list(gradients.shape)}; allowed: [B,D,h,w] and "
            "[K,B,D,h,w], one gradient of the activations' shape for each class"
        )
