"""The random walk along the affinities of a trained network.

Shape letters: `B` images, `L` planes, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from shards.records import GRID_STRIDE
from wsss.contract.device import worker_device
from wsss.contract.fit import load_trained
from wsss.contract.stage import Instance
from wsss.data.images import resize_image, to_tensor
from wsss.models.inference import for_inference
from wsss.ops.multi_scale import grid_size, magnify
from wsss.ops.random_walk import feature_walk, random_walk
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.settings.views import edge_view_sizes, walk_size

if TYPE_CHECKING:
    from wsss.models.affinitynet import AffinityNet
    from wsss.models.irnet import IRNet

Walk = Callable[[Sequence[np.ndarray], torch.Tensor], torch.Tensor]
"""(images u8[H, W, 3] of one size, planes f32[B, L, h, w]) -> the planes, propagated."""


def walk_of(
    affinity: Instance,
    *,
    radius: int,
    beta: float,
    num_steps_log2: int,
    long_side: int = 0,
    edge_scales: Sequence[float] = (1.0,),
) -> Walk:
    """The random walk for the network that `affinity` trained.

    `long_side`: the image is resized as `wsss.stages.settings.views.walk_size` says, and the planes to the stride-4
    grid of the resized image and back; `edge_scales`: those of `edge_probability`, for IRNet only; the other arguments
    are those of `wsss.ops.random_walk`.
    """
    trained = affinity.stage
    assert isinstance(trained, AffinityTraining)
    irnet = trained.network == "irnet"
    along: Callable[..., torch.Tensor]
    along = partial(_along_boundaries, edge_scales=edge_scales) if irnet else _along_features
    network = ready_network(affinity)

    def walk(images: Sequence[np.ndarray], planes_BLhw: torch.Tensor) -> torch.Tensor:
        device = planes_BLhw.device
        image_B3HW = torch.stack([to_tensor(one, mean=trained.mean, std=trained.std, device=device) for one in images])
        height, width = image_B3HW.shape[-2:]
        image_B3HW = resize_image(image_B3HW, size=walk_size((height, width), long_side=long_side))
        height, width = image_B3HW.shape[-2:]
        walked_BLhw = along(
            network,
            image_B3HW,
            resize_planes(planes_BLhw, size=grid_size((height, width), stride=4)),
            radius=radius,
            beta=beta,
            num_steps_log2=num_steps_log2,
        )
        return resize_planes(walked_BLhw, size=(planes_BLhw.shape[2], planes_BLhw.shape[3]))

    return walk


def ready_network(affinity: Instance) -> Any:
    """The network that `affinity` trained, for the parts of it that the walk reads."""
    loaded = load_trained(affinity, device=worker_device())
    irnet = getattr(affinity.stage, "network", "") == "irnet"
    return for_inference(loaded, look=(lambda network, images: network.edge_logits(images)) if irnet else None)


def resize_planes(planes_BLhw: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
    """Planes on another grid over the same image: bilinear, and averaged over the cells of a finer grid.

    Every value is a weighted mean of the plane's, so planes keep their range.
    """
    if tuple(planes_BLhw.shape[-2:]) == size or planes_BLhw.numel() == 0:
        return planes_BLhw
    return functional.interpolate(planes_BLhw, size=size, mode="bilinear", align_corners=False, antialias=True)


def _along_boundaries(
    network: IRNet, image_B3HW: torch.Tensor, planes_BLhw: torch.Tensor, *, edge_scales: Sequence[float], **steps: Any
) -> torch.Tensor:
    return random_walk(planes_BLhw, edge_hw=edge_probability(network, image_B3HW, scales=edge_scales), **steps)


def _along_features(
    network: AffinityNet, image_B3HW: torch.Tensor, planes_BLhw: torch.Tensor, **steps: Any
) -> torch.Tensor:
    """Walk on the stride-8 grid: planes are averaged onto it, and magnified back to stride 4 bilinearly.

    Source: psa's public code. Differs: it averages and magnifies between the stride-8 grid and the image's pixels, with
    zeros beyond the image; stored maps have stride 4. `tests/parity/test_stages.py` measures the difference.
    """
    coarse_BLhw = functional.avg_pool2d(planes_BLhw, 2, ceil_mode=True, count_include_pad=False)
    walked_BLhw = feature_walk(coarse_BLhw, features_Dhw=network(image_B3HW), **steps)
    return magnify(walked_BLhw, size=(planes_BLhw.shape[2], planes_BLhw.shape[3]), stride=2)


def edge_probability(network: IRNet, image_B3HW: torch.Tensor, *, scales: Sequence[float] = (1.0,)) -> torch.Tensor:
    """Boundary probability E = sigmoid(1/S sum_s resize((z_s + flip(z'_s)) / 2)), with z_s the boundary logits of the
    image at scale s, z'_s those of its mirror image, and resize to the grid of the image at scale 1.

    Shapes: image [B, 3, H, W] -> f32[B, h, w] in [0, 1], h = ceil(H / 4). `scales`: factors of H and W, rounded half
    up; no side of a resized image is shorter than 32 pixels. All scales have the same weight. Logits are resized
    bilinearly, those of a finer grid averaged over its cells. With (1.0,), nothing is resized.

    Raises: ValueError for no scale, or one that is not positive.
    Source: Ahn et al., CVPR 2019 (IRNet), public code, which has one scale: logits of an image and its mirror image
    are averaged before the sigmoid.
    Differs: the mean over scales is ours; a scale is one more view, averaged where the mirror image is.
    """
    size = (image_B3HW.shape[-2], image_B3HW.shape[-1])
    grid = grid_size(size, stride=GRID_STRIDE)
    of_scales = [
        resize_planes(_edge_logits(network, resize_image(image_B3HW, size=view)), size=grid)
        for view in edge_view_sizes(size, scales=scales)
    ]
    logits_B1hw = of_scales[0] if len(of_scales) == 1 else torch.stack(of_scales).mean(0)
    return torch.sigmoid(logits_B1hw)[:, 0]


def _edge_logits(network: IRNet, image_B3HW: torch.Tensor) -> torch.Tensor:
    """f32[B, 1, h, w]: boundary logits, averaged over an image and its mirror image."""
    upright, mirrored = network.edge_logits(torch.cat([image_B3HW, image_B3HW.flip(-1)])).chunk(2)
    return (upright + mirrored.flip(-1)) / 2
