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
from wsss.data.images import to_tensor
from wsss.ops.multi_scale import magnify
from wsss.ops.random_walk import feature_walk, random_walk
from wsss.stages.affinity.training import AffinityTraining

if TYPE_CHECKING:
    from wsss.models.affinitynet import AffinityNet
    from wsss.models.irnet import IRNet

Walk = Callable[[Sequence[np.ndarray], torch.Tensor], torch.Tensor]
"""(images u8[H, W, 3] of one size, planes f32[B, L, h, w]) -> the planes, propagated."""


def walk_of(affinity: Instance, *, radius: int, beta: float, num_steps_log2: int) -> Walk:
    """The random walk for the network that `affinity` trained; the arguments are those of `wsss.ops.random_walk`."""
    trained = affinity.stage
    assert isinstance(trained, AffinityTraining)
    network = load_trained(affinity, device=worker_device())
    along = _along_boundaries if trained.network == "irnet" else _along_features

    def walk(images: Sequence[np.ndarray], planes_BLhw: torch.Tensor) -> torch.Tensor:
        image_B3HW = torch.stack([to_tensor(image, mean=trained.mean, std=trained.std) for image in images])
        return along(
            network,
            image_B3HW.to(planes_BLhw.device),
            planes_BLhw,
            radius=radius,
            beta=beta,
            num_steps_log2=num_steps_log2,
        )

    return walk


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
