"""Activations of any layer of a classifier, and the gradients of several classes' logits, from one forward pass.

Shape letters: B batch, D channels, K classes asked for, H W pixels of the image, h w pixels of the layer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wsss.models.classifier import Classifier
from wsss.ops.cam import class_rows
from wsss.ops.grad_cam import LAST_LAYER

_NUM_NAMED = 8


class LayerView(NamedTuple):
    """Activations and gradients of a layer from one pass."""

    activations: Tensor
    """[B,D,h,w]."""
    gradients: Iterator[Tensor]
    """[B,D,h,w] each."""
    num_pixels: int
    """h w of the last layer."""
    logits: Tensor
    """[B,C]."""


class LayerGradients:
    """Activations and gradients of one layer of a classifier: a dotted name in the encoder's timm network, or `last`.

    Activations before the layer are not stored for the backward pass: parameters need no gradient, and the layer's
    output is the first leaf. So K classes cost one forward pass, and K backward passes from the logits to the layer.

    Raises: ValueError for an unknown layer, with the nearest names.
    """

    def __init__(self, network: Classifier, *, layer: str) -> None:
        self._network = network.requires_grad_(False)
        self._module = None if layer == LAST_LAYER else find_layer(network, layer)

    @torch.enable_grad()
    def __call__(self, image_B3HW: Tensor, *, classes: Sequence[Sequence[int]]) -> LayerView:
        """The layer's activations, and for k = 0, 1, ... the gradients of every image's own k-th class's logit.

        `classes`: ids, for each of the B images. There are as many gradients as the longest of these lists has ids,
        made one at a time; an image whose list is shorter has zeros there.

        Raises: ValueError for ids that the classifier does not know, and for a layer whose output is not a map.
        """
        if len(classes) != len(image_B3HW):
            raise ValueError(f"classes of {len(classes)} images for a batch of {len(image_B3HW)}; give a list for each")
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise ValueError("the layer's output is not a map [B,D,h,w]; choose another layer")
            kept.append(output.detach().requires_grad_())
            # A copy: the next layer may be in-place, and a leaf that is modified in place has no gradient.
            return kept[-1].clone()

        handle = self._module.register_forward_hook(keep) if self._module is not None else None
        try:
            features_BDhw = self._network.features(image_B3HW)
        finally:
            if handle is not None:
                handle.remove()
        if self._module is None:
            kept.append(features_BDhw.detach().requires_grad_())
            features_BDhw = kept[-1]
        if len(kept) != 1:
            raise ValueError(f"the layer runs {len(kept)} times in a forward pass; choose one that runs once")
        logits_BC = self._network.logits(features_BDhw)
        gradients = (gradient for (gradient,) in gradients_of_classes(logits_BC, kept, classes=classes))
        num_pixels = features_BDhw.shape[-2] * features_BDhw.shape[-1]
        return LayerView(kept[0].detach(), gradients, num_pixels, logits_BC.detach())


def gradients_of_classes(
    logits_BC: Tensor, activations: Sequence[Tensor], *, classes: Sequence[Sequence[int]]
) -> Iterator[tuple[Tensor, ...]]:
    """d(sum over the batch of each image's k-th logit) / dA for every A, for k = 0, 1, ...

    Images are independent, so the sum separates them; an image with fewer classes has zeros.
    """
    rows = [class_rows(present, num_rows=logits_BC.shape[1]).tolist() for present in classes]
    longest = max((len(of_image) for of_image in rows), default=0)
    for k in range(longest):
        with torch.enable_grad():
            total = sum(logits_BC[b, of_image[k]] for b, of_image in enumerate(rows) if k < len(of_image))
            assert isinstance(total, Tensor)
            gradients = torch.autograd.grad(total, list(activations), retain_graph=k + 1 < longest)
        yield gradients


def find_layer(network: Classifier, name: str) -> nn.Module:
    """The encoder's layer of that name. Raises ValueError with the nearest names, and for a layer of tokens."""
    layers = dict(network.encoder.network.named_modules())
    if name in layers and name:
        if not network.encoder.layers_give_maps:
            raise ValueError(
                f"the encoder's layer {name!r} gives tokens, not a map [B,D,h,w]; a vision transformer has only the "
                f"layer {LAST_LAYER!r}"
            )
        return layers[name]
    if not network.encoder.layers_give_maps:
        raise ValueError(f"the encoder has no layer {name!r}; a vision transformer has only the layer {LAST_LAYER!r}")
    near = difflib.get_close_matches(name, layers, n=_NUM_NAMED, cutoff=0.3) or list(layers)
    near = [layer for layer in near if layer][:_NUM_NAMED]
    raise ValueError(f"the encoder has no layer {name!r}; there are {LAST_LAYER!r}, {', '.join(near)}, and others")
