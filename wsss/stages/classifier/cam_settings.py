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
    unlabelled_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """In an image without labels, a class gets a map if it is not known to be absent and is predicted with at least
    this probability; 0 makes no maps for such images."""
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    """Scales of the image, as factors of its size."""
    flip: bool = True
    """Also process the mirrored image at every scale."""
    num_samples: Annotated[int, Field(ge=1), active_with("method", "stochastic")] = 200
    """stochastic: number of maps drawn (FickleNet: 200 per image, of one view)."""
    samples_per: Annotated[
        Literal["view", "image"], active_with("method", "stochastic"), active_unless("samples_per", "view")
    ] = "view"
    """stochastic: `view` draws `num_samples` maps of every view; `image` divides `num_samples` among the views of an
    image, and the first views get one more if they do not divide evenly. Views are in the order of `scales`, each
    followed by its mirror image."""
    drop_rate: Annotated[_Rate | None, active_with("method", "stochastic")] = None
    """stochastic: probability that a unit is dropped; if not given, the classifier's stochastic_drop_rate."""
    max_side: Annotated[int, Field(ge=64)] = 2048
    """Longest side of a view in pixels; longer views are scaled down to it."""
    batch_images: Annotated[int, Field(ge=1)] = 1
    """Images of equal size that are processed together: use 1 on CPUs, 8 or more on a GPU."""

    def samples_of_views(self) -> tuple[int, ...]:
        """stochastic: number of maps drawn of each view, in the order of the views."""
        num_views = len(self.scales) * (2 if self.flip else 1)
        if self.samples_per == "view":
            return (self.num_samples,) * num_views
        share, left = divmod(self.num_samples, num_views)
        return tuple(share + (view < left) for view in range(num_views))
