"""Features of all stages of a classifier, and the gradients of several classes' logits in each, from one forward pass.

Shape letters: B batch, D channels, H W pixels of the image, h w pixels of a stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wsss.models.classifier import Classifier
from wsss.models.layer_gradients import gradients_of_classes


class StageView(NamedTuple):
    """Features and gradients of all stages from one pass."""

    last: Tensor
    """[B,D,h,w]: the features that the head reads."""
    stages: list[Tensor]
    """[B,D,h,w] each, fine to coarse, without `last`."""
    gradients: Iterator[tuple[Tensor, ...]]
    """For each class in turn, the gradient in each of `stages`."""
    logits: Tensor
    """[B,C]."""


class StageGradients:
    """Features of a classifier's stages of a stride of at least `finest_stride`, and the classes' gradients in them.

    K classes cost one forward pass, whose activations are stored, and K backward passes from the logits to the finest
    of these stages. Parameters need no gradient.
    """

    def __init__(self, network: Classifier, *, finest_stride: int) -> None:
        self._network, self._finest_stride = network.requires_grad_(False), finest_stride

    @torch.enable_grad()
    def __call__(self, image_B3HW: Tensor, *, classes: Sequence[Sequence[int]]) -> StageView:
        """`classes`: ids, for each of the B images. There are as many gradients as the longest of these lists has ids,
        made one at a time; an image whose list is shorter has zeros there.

        Raises: ValueError for ids that the classifier does not know.
        """
        if len(classes) != len(image_B3HW):
            raise ValueError(f"classes of {len(classes)} images for a batch of {len(image_B3HW)}; give a list for each")
        # The graph begins at the image: which layer a stage ends with is known to the network alone.
        last, stages = self._network.stages(image_B3HW.detach().requires_grad_(), finest_stride=self._finest_stride)
        logits_BC = self._network.logits(last)
        # Without stages before the last there is nothing to differentiate.
        gradients = gradients_of_classes(logits_BC, stages, classes=classes) if stages else _none(classes)
        return StageView(last.detach(), [of_stage.detach() for of_stage in stages], gradients, logits_BC.detach())


def _none(classes: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, ...]]:
    return iter([()] * max(map(len, classes), default=0))
