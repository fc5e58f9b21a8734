"""The cost of training an affinity network, and of its random walk, for `wsss plan`.

Shape letters: `h w` the stride-4 grid.
"""

from __future__ import annotations

from wsss.contract.cost import Load, PlanContext, Units
from wsss.ops.multi_scale import grid_size
from wsss.ops.pixel_pairs import half_plane_offsets
from wsss.ops.random_walk import chebyshev_power
from wsss.stages.affinity.training import AffinityTraining

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
) -> Load:
    """The affinity network on an image (IRNet: only boundaries, also on its mirror image), then the random walk.

    `size`: (H, W) of the image as the network sees it. `whole_power`: every step is computed, as by
    `wsss.ops.mean_walk`.
    """
    is_irnet, network = trained.network == "irnet", context.network(slot)
    flops = 2 * network.forward(size, method="edge_logits") if is_irnet else network.forward(size)
    rows, columns = grid_size(size, stride=trained.grid_stride)
    nodes = rows * columns / 1e6
    terms = 2**num_steps_log2 if whole_power else len(chebyshev_power(2**num_steps_log2, tolerance=WALK_TOLERANCE))
    arrays = {"walk_setup": nodes, "walk_step": nodes * terms * planes}
    return Load(flops=flops, passes=1 / batch_images, arrays=arrays)
