"""The random walk along the affinities of several trained networks: over the mean of their transition matrices.

Shape letters: `B` images, `L` planes, `P` pixel pairs, `H W` pixels, `h w` the networks' grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from wsss.contract.stage import Instance
from wsss.data.images import resize_image, to_tensor
from wsss.ops.feature_affinity import feature_affinity
from wsss.ops.mean_walk import mean_walk
from wsss.ops.multi_scale import grid_size, magnify
from wsss.ops.random_walk import edge_affinity
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.affinity.walk import Walk, edge_probability, ready_network, resize_planes
from wsss.stages.settings.views import walk_size

_Network = tuple[AffinityTraining, Any]
"""The stage that trained a network, and the network."""


def mean_walk_of(
    trainings: Sequence[Instance], *, radius: int, beta: float, num_steps_log2: int, long_side: int = 0
) -> Walk:
    """The walk for networks of one kind that `trainings` trained; arguments as for `wsss.stages.affinity.walk.walk_of`.

    IRNets: scores are multiplied by the mean of 1 - boundary before the walk. AffinityNets: planes are averaged onto
    the stride-8 grid and magnified back, as for one network.
    """
    networks = [(_stage_of(one), ready_network(one)) for one in trainings]
    walked = partial(_walked, radius=radius, num_steps_log2=num_steps_log2)

    def walk(images: Sequence[np.ndarray], planes_BLhw: torch.Tensor) -> torch.Tensor:
        size = walk_size((images[0].shape[0], images[0].shape[1]), long_side=long_side)
        resized_BLhw = resize_planes(planes_BLhw, size=grid_size(size, stride=4))
        found = [
            walked(planes_Lhw, [_affinity(one, image, size=size, radius=radius, beta=beta) for one in networks])
            for image, planes_Lhw in zip(images, resized_BLhw, strict=True)
        ]
        return resize_planes(torch.stack(found).to(planes_BLhw), size=(planes_BLhw.shape[2], planes_BLhw.shape[3]))

    return walk


def _stage_of(training: Instance) -> AffinityTraining:
    assert isinstance(training.stage, AffinityTraining)
    return training.stage


def _affinity(
    of: _Network, image: np.ndarray, *, size: tuple[int, int], radius: int, beta: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The affinities of all pairs f64[P, h, w], to the power of beta; for IRNet also 1 - boundary, f64[h, w]."""
    trained, network = of
    device = next(network.parameters()).device
    image_13HW = to_tensor(image, mean=trained.mean, std=trained.std, device=device)[None]
    image_13HW = resize_image(image_13HW, size=size)
    if trained.network == "irnet":
        permeability_hw = 1 - edge_probability(network, image_13HW)[0].double()
        return edge_affinity(permeability_hw, radius=radius, beta=beta), permeability_hw
    return feature_affinity(network(image_13HW)[0], radius=radius).double().pow(beta), None


def _walked(
    planes_Lhw: torch.Tensor,
    of_networks: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
    *,
    radius: int,
    num_steps_log2: int,
) -> torch.Tensor:
    if not len(planes_Lhw):
        return planes_Lhw
    affinities = [affinity_Phw for affinity_Phw, _ in of_networks]
    permeabilities = [permeability_hw for _, permeability_hw in of_networks if permeability_hw is not None]
    steps: dict[str, Any] = {"affinities": affinities, "radius": radius, "num_steps_log2": num_steps_log2}
    if permeabilities:
        return mean_walk(planes_Lhw * torch.stack(permeabilities).mean(0), **steps)
    coarse_Lhw = functional.avg_pool2d(planes_Lhw[None], 2, ceil_mode=True, count_include_pad=False)[0]
    walked_Lhw = mean_walk(coarse_Lhw, **steps).to(planes_Lhw)
    return magnify(walked_Lhw, size=(planes_Lhw.shape[1], planes_Lhw.shape[2]), stride=2)
