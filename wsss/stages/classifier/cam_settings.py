"""The settings of `make_cams`: how activation maps are computed from a classifier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsss.contract.settings import Scales, active_unless, active_with, settings

LAST_LAYER = "last"
"""Value of `target_layer` for the paper's maps: the features before the classifier's pooling."""
GRADIENT_METHODS = ("grad_cam", "grad_cam_pp", "elementwise_grad_cam")
"""The methods that use a layer's gradients; a test checks that they equal `wsss.ops.grad_cam.METHODS`."""
_Rate = Annotated[float, Field(ge=0, lt=1)]


@settings
class CamSettings:
    """The method, the views and the normalisation of the maps."""

    method: Literal["cam", "grad_cam", "grad_cam_pp", "elementwise_grad_cam", "stochastic"] = "cam"
    """`cam`: Zhou et al. 2016, with scales merged as in irn; `grad_cam`, `grad_cam_pp`, `elementwise_grad_cam`: maps
    computed from gradients; `stochastic`: FickleNet's maps."""
    target_layer: str = LAST_LAYER
    """Layer for the methods that use gradients: `last`, or a dotted name in timm's network, such as `blocks.5`."""
    normalisation: Literal["per_class", "global"] = "per_class"
    """Maps are divided by their own maximum (`per_class`, as in irn), or by the largest maximum of all classes
    (`global`, as in NoPeopleAllowed)."""
    square_root: Annotated[bool, active_unless("square_root", False)] = False
    """Take the square root of the maps of every view before they are added, as AffinityNet's public code does for
    VGG16: weak activations become stronger. Not with method = "stochastic"."""
    unlabelled_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """In an image without labels, a class gets a map if it is not known to be absent and is predicted with at least
    this probability; 0 makes no maps for such images."""
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    """Scales of the image, as factors of its size."""
    flip: bool = True
    """Also process the mirrored image at every scale."""
    num_samples: Annotated[int, Field(ge=1), active_with("method", "stochastic")] = 200
    """stochastic: number of maps drawn per view."""
    drop_rate: Annotated[_Rate | None, active_with("method", "stochastic")] = None
    """stochastic: probability that a unit is dropped; if not given, the classifier's stochastic_drop_rate."""
    max_side: Annotated[int, Field(ge=64)] = 2048
    """Longest side of a view in pixels; longer views are scaled down to it."""
    batch_images: Annotated[int, Field(ge=1)] = 1
    """Images of equal size that are processed together: use 1 on CPUs, 8 or more on a GPU."""
