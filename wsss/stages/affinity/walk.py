"""The random walk along the affinities of a trained network.

Shape letters: `B` images, `L` planes, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from wsss.contract.device import worker_device
from wsss.contract.fit import load_trained
from wsss.contract.stage import Instance
from wsss.data.images import resize_image, to_tensor
from wsss.models.inference import for_inference
from wsss.ops.multi_scale import grid_size, magnify
from wsss.ops.random_walk import feature_walk, random_walk
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.settings.views import walk_size

if TYPE_CHECKING:
    from wsss.models.affinitynet import AffinityNet
    from wsss.models.irnet import IRNet

Walk = Callable[[Sequence[np.ndarray], torch.Tensor], torch.Tensor]
"""(images u8[H, W, 3] of one size, planes f32[B, L, h, w]) -> the planes, propagated."""


def walk_of(affinity: Instance, *, radius: int, beta: float, num_steps_log2: int, long_side: int = 0) -> Walk:
    """The random walk for the network that `affinity` trained.

    `long_side`: the image is resized as `wsss.stages.settings.views.walk_size` says, and the planes to the stride-4
    grid of the resized image and back; the other arguments are those of `wsss.ops.random_walk`.
    """
    trained = affinity.stage
    assert isinstance(trained, AffinityTraining)
    along = _along_boundaries if trained.network == "irnet" else _along_features
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
    network: IRNet, image_B3HW: torch.Tensor, planes_BLhw: torch.Tensor, **steps: Any
) -> torch.Tensor:
    return random_walk(planes_BLhw, edge_hw=edge_probability(network, image_B3HW), **steps)


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


def edge_probability(network: IRNet, image_B3HW: torch.Tensor) -> torch.Tensor:
    """f32[B, h, w]: boundary probability; logits of an image and its mirror image are averaged before the sigmoid.

    Source: irn's public code.
    """
    upright, mirrored = network.edge_logits(torch.cat([image_B3HW, image_B3HW.flip(-1)])).chunk(2)
    return torch.sigmoid((upright + mirrored.flip(-1)) / 2)[:, 0]
