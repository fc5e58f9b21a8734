"""The cost of making activation maps, for `wsss plan`.

Shape letters: `K` classes present, `B` images, `H W` pixels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from wsss.contract.cost import Load, PlanContext
from wsss.models.layer_gradients import LayerGradients
from wsss.models.stage_gradients import StageGradients
from wsss.stages.classifier.cam_settings import GRADIENT_METHODS, STAGE_METHODS, CamSettings
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.settings.views import classifier_views

_NUM_STAGES = 4
"""Stages of the usual encoder with features of a stride of at least 4, each of which makes a map."""


def cams_load(
    settings: CamSettings, context: PlanContext, *, slot: str, trained: ClassifierTraining, longest: int
) -> Load:
    """The cost of one image that shows a class: its views through the classifier in `slot`, and its classes' maps."""
    views, load = 2 if settings.flip else 1, Load()
    draws = settings.samples_of_views()
    sizes = classifier_views(context.stats.size, scales=settings.scales, long_side=settings.long_side, max_side=longest)
    for index, size in enumerate(sizes):
        flops = views * context.network(slot).forward(size)
        load += Load(flops=flops, passes=1 / settings.batch_images)
        load += Load(arrays={"make_view": size[0] * size[1] / 1e6})
        if settings.method == "stochastic":
            of_scale = sum(draws[index * views : (index + 1) * views])
            load += _stochastic_maps(context, trained=trained, size=size) * of_scale
        else:
            load += _maps(settings, context, slot=slot, size=size) * views
    return load


def _stochastic_maps(context: PlanContext, *, trained: ClassifierTraining, size: tuple[int, int]) -> Load:
    """The cost of one draw of the maps of K classes from the features of one view."""
    units = size[0] * size[1] / trained.output_stride**2 * trained.stochastic_kernel**2 / 1e6
    return Load(arrays={"stochastic_map": units * context.stats.labels})


def _maps(settings: CamSettings, context: PlanContext, *, slot: str, size: tuple[int, int]) -> Load:
    """The cost of computing the maps of K classes from the features of one view."""
    labels = context.stats.labels
    num_maps = _NUM_STAGES if settings.method in STAGE_METHODS else 1
    on_grid = Load(arrays={"cam_maps": context.stats.meganodes * labels * num_maps})
    if settings.method == "region_cam":
        back = _stage_gradients(context, slot=slot, size=size, finest_stride=settings.finest_stride)
    elif settings.method in GRADIENT_METHODS:
        back = _gradients(context, slot=slot, size=size, layer=settings.target_layer)
    else:
        return on_grid
    return on_grid + Load(flops=back * labels, passes=labels / settings.batch_images / (2 if settings.flip else 1))


def _gradients(context: PlanContext, *, slot: str, size: tuple[int, int], layer: str) -> float:
    """Floating point operations of the backward pass from one class's logit to a layer, for one image."""

    def look(network: Any, image_B3HW: Tensor) -> None:
        list(LayerGradients(network, layer=layer)(image_B3HW, classes=[[1]] * len(image_B3HW)).gradients)

    network = context.network(slot)
    both = network.count(size, name=f"gradients of one class at layer {layer}", call=look)
    return max(both - network.forward(size), 0.0)


def _stage_gradients(context: PlanContext, *, slot: str, size: tuple[int, int], finest_stride: int) -> float:
    """Floating point operations of the backward pass from one class's logit to the finest stage, for one image."""

    def look(network: Any, image_B3HW: Tensor) -> None:
        list(
            StageGradients(network, finest_stride=finest_stride)(image_B3HW, classes=[[1]] * len(image_B3HW)).gradients
        )

    network = context.network(slot)
    both = network.count(size, name=f"gradients of one class in stages of stride {finest_stride}", call=look)
    return max(both - network.forward(size), 0.0)
