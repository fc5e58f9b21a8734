"""How activation maps are made of a classifier: the settings of `make_cams`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsss.contract.settings import Scales, active_with, settings

LAST_LAYER = "last"
"""`target_layer` of the maps that the paper has: the features before the classifier's pooling."""
GRADIENT_METHODS = ("grad_cam", "grad_cam_pp", "elementwise_grad_cam")
"""The methods that take a layer's gradients; a test holds them equal to `wsss.ops.grad_cam.METHODS`."""
_Rate = Annotated[float, Field(ge=0, lt=1)]


@settings
class CamSettings:
    """The method, the views and the scale of the maps."""

    method: Literal["cam", "grad_cam", "grad_cam_pp", "elementwise_grad_cam", "stochastic"] = "cam"
    """`cam`: Zhou et al. 2016, as irn merges scales; the three from gradients; `stochastic`: FickleNet's maps."""
    target_layer: str = LAST_LAYER
    """Layer that the maps from gradients are of: `last`, or a dotted name in timm's network, such as `blocks.5`."""
    normalisation: Literal["per_class", "global"] = "per_class"
    """Maps are divided by their own maximum (irn), or by the largest of all classes (NoPeopleAllowed)."""
    unlabelled_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Images without a label: classes that are not known to be absent, and are predicted with at least this
    probability, get a map; 0 gives them none."""
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    """Sizes of the image, as factors."""
    flip: bool = True
    """Also look at the mirrored image at every scale."""
    num_samples: Annotated[int, Field(ge=1), active_with("method", "stochastic")] = 200
    """stochastic: maps per view."""
    drop_rate: Annotated[_Rate | None, active_with("method", "stochastic")] = None
    """stochastic: probability that a unit is dropped; the classifier's own where not given."""
    max_side: Annotated[int, Field(ge=64)] = 2048
    """Longest side of a view in pixels; views that would be longer are made as long as this."""
    batch_images: Annotated[int, Field(ge=1)] = 1
    """Images of equal size that are looked at together: 1 on CPUs, 8 and more on a GPU."""
