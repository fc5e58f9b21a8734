"""The cost of training an affinity network, and of its random walk, for `wsss plan`.

Shape letters: `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Sequence

from wsss.contract.cost import Load, PlanContext, Units
from wsss.ops.multi_scale import grid_size
from wsss.ops.pixel_pairs import half_plane_offsets
from wsss.ops.random_walk import chebyshev_power
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.settings.views import edge_view_sizes

WALK_TOLERANCE = 2.0**-23
"""Tolerance of `wsss.ops.random_walk` for a power of the transition matrix: the rounding error of float32."""


def pair_units(training: AffinityTraining) -> Units:
    """Cost of the losses of one crop, which are computed over all of its pixel pairs."""
    nodes = (training.crop_size / training.grid_stride) ** 2 / 1e6
    return {"pair_loss": nodes * len(half_plane_offsets(training.radius))}


def walk_load(
    trained: AffinityTraining,
    context: PlanContext,
    *,
    num_steps_log2: int,
    size: tuple[int, int],
    planes: float,
    batch_images: int,
    slot: str = "affinity",
    whole_power: bool = False,
    edge_scales: Sequence[float] = (1.0,),
) -> Load:
    """The affinity network on an image (IRNet: only boundaries, also on its mirror image), then the random walk.

    `size`: (H, W) of the image as the network sees it, at scale 1 of IRNet's `edge_scales`. `whole_power`: every step
    is computed, as by `wsss.ops.mean_walk`.
    """
    network = context.network(slot)
    if trained.network == "irnet":
        views = edge_view_sizes(size, scales=edge_scales)
        flops = sum(2 * network.forward(view, method="edge_logits") for view in views)
    else:
        views, flops = [size], network.forward(size)
    rows, columns = grid_size(size, stride=trained.grid_stride)
    nodes = rows * columns / 1e6
    terms = 2**num_steps_log2 if whole_power else len(chebyshev_power(2**num_steps_log2, tolerance=WALK_TOLERANCE))
    arrays = {"walk_setup": nodes, "walk_step": nodes * terms * planes}
    return Load(flops=flops, passes=len(views) / batch_images, arrays=arrays)
