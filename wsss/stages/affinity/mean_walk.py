"""The random walk along the affinities of several trained networks: over the mean of their transition matrices.

Shape letters: `B` images, `L` planes, `P` pixel pairs, `H W` pixels, `h w` the networks' grid, `R` = B h.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

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


class _Affinities(NamedTuple):
    """What one network says of images of one size."""

    pairs: torch.Tensor
    """f64[P, B * h, w]: the affinities of all pairs to the power of beta, images stacked vertically, 0 between them."""
    permeability: torch.Tensor | None
    """IRNet: 1 - boundary, f64[B, h, w]."""


def mean_walk_of(
    trainings: Sequence[Instance],
    *,
    radius: int,
    beta: float,
    num_steps_log2: int,
    long_side: int = 0,
    edge_scales: Sequence[float] = (1.0,),
) -> Walk:
    """The walk for networks of one kind that `trainings` trained; arguments as for `wsss.stages.affinity.walk.walk_of`.

    IRNets: scores are multiplied by the mean of 1 - boundary before the walk. AffinityNets: planes are averaged onto
    the stride-8 grid and magnified back, as for one network.
    """
    networks = [(_stage_of(one), ready_network(one)) for one in trainings]

    def walk(images: Sequence[np.ndarray], planes_BLhw: torch.Tensor) -> torch.Tensor:
        size = walk_size((images[0].shape[0], images[0].shape[1]), long_side=long_side)
        resized_BLhw = resize_planes(planes_BLhw, size=grid_size(size, stride=4))
        if not resized_BLhw.numel():
            return planes_BLhw
        see = partial(_affinities, size=size, radius=radius, beta=beta, edge_scales=edge_scales)
        seen = [see(one, images) for one in networks]
        walked_BLhw = _walked(resized_BLhw, seen, radius=radius, num_steps_log2=num_steps_log2).to(planes_BLhw)
        return resize_planes(walked_BLhw, size=(planes_BLhw.shape[2], planes_BLhw.shape[3]))

    return walk


def _stage_of(training: Instance) -> AffinityTraining:
    assert isinstance(training.stage, AffinityTraining)
    return training.stage


def _affinities(
    of: _Network,
    images: Sequence[np.ndarray],
    *,
    size: tuple[int, int],
    radius: int,
    beta: float,
    edge_scales: Sequence[float],
) -> _Affinities:
    trained, network = of
    device = next(network.parameters()).device
    image_B3HW = torch.stack([to_tensor(one, mean=trained.mean, std=trained.std, device=device) for one in images])
    image_B3HW = resize_image(image_B3HW, size=size)
    if trained.network == "irnet":
        permeability_Bhw = 1 - edge_probability(network, image_B3HW, scales=edge_scales).double()
        pairs = [edge_affinity(one_hw, radius=radius, beta=beta) for one_hw in permeability_Bhw]
        return _Affinities(torch.cat(pairs, dim=1), permeability_Bhw)
    features_BDhw = network(image_B3HW)
    pairs = [feature_affinity(one_Dhw, radius=radius).double().pow(beta) for one_Dhw in features_BDhw]
    return _Affinities(torch.cat(pairs, dim=1), None)


def _walked(
    planes_BLhw: torch.Tensor, seen: Sequence[_Affinities], *, radius: int, num_steps_log2: int
) -> torch.Tensor:
    """f64[B, L, h, w]."""
    permeabilities = [one.permeability for one in seen if one.permeability is not None]
    if permeabilities:
        seeds_BLhw = planes_BLhw * torch.stack(permeabilities).mean(0)[:, None]
    else:
        seeds_BLhw = functional.avg_pool2d(planes_BLhw, 2, ceil_mode=True, count_include_pad=False)
    stacked_LRw = mean_walk(
        seeds_BLhw.transpose(0, 1).flatten(1, 2),
        affinities=[one.pairs for one in seen],
        radius=radius,
        num_steps_log2=num_steps_log2,
    )
    walked_BLhw = stacked_LRw.unflatten(1, (len(planes_BLhw), -1)).transpose(0, 1)
    if permeabilities:
        return walked_BLhw
    return magnify(walked_BLhw.to(planes_BLhw), size=(planes_BLhw.shape[2], planes_BLhw.shape[3]), stride=2)
