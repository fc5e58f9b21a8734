"""The cost of making activation maps, for `wsss plan`.

Shape letters: `K` classes present, `B` images, `H W` pixels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from wsss.contract.cost import Load, PlanContext
from wsss.models.layer_gradients import LayerGradients
from wsss.stages.classifier.cam_settings import GRADIENT_METHODS, CamSettings
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.settings.views import classifier_views


def cams_load(
    settings: CamSettings, context: PlanContext, *, slot: str, trained: ClassifierTraining, longest: int
) -> Load:
    """The cost of one image that shows a class: its views through the classifier in `slot`, and its classes' maps."""
    views, load = 2 if settings.flip else 1, Load()
    sizes = classifier_views(context.stats.size, scales=settings.scales, long_side=settings.long_side, max_side=longest)
    for size in sizes:
        flops = views * context.network(slot).forward(size)
        load += Load(flops=flops, passes=1 / settings.batch_images)
        load += Load(arrays={"make_view": size[0] * size[1] / 1e6})
        load += _maps(settings, context, slot=slot, trained=trained, size=size) * views
    return load


def _maps(
    settings: CamSettings, context: PlanContext, *, slot: str, trained: ClassifierTraining, size: tuple[int, int]
) -> Load:
    """The cost of computing the maps of K classes from the features of one view."""
    labels = context.stats.labels
    if settings.method == "stochastic":
        units = size[0] * size[1] / trained.output_stride**2 * trained.stochastic_kernel**2 / 1e6
        return Load(arrays={"stochastic_map": units * labels * settings.num_samples})
    on_grid = Load(arrays={"cam_maps": context.stats.meganodes * labels})
    if settings.method not in GRADIENT_METHODS:
        return on_grid
    back = _gradients(context, slot=slot, size=size, layer=settings.target_layer)
    return on_grid + Load(flops=back * labels, passes=labels / settings.batch_images / (2 if settings.flip else 1))


def _gradients(context: PlanContext, *, slot: str, size: tuple[int, int], layer: str) -> float:
    """Floating point operations of the backward pass from one class's logit to a layer, for one image."""

    def look(network: Any, image_B3HW: Tensor) -> None:
        list(LayerGradients(network, layer=layer)(image_B3HW, classes=[[1]] * len(image_B3HW)).gradients)

    network = context.network(slot)
    both = network.count(size, name=f"gradients of one class at layer {layer}", call=look)
    return max(both - network.forward(size), 0.0)
