"""The settings of `make_cams`: how activation maps are computed from a classifier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsss.contract.settings import Scales, active_unless, active_with, settings
from wsss.stages.settings.unknown_classes import LabelReading

LAST_LAYER = "last"
"""Value of `target_layer` for the paper's maps: the features before the classifier's pooling."""
GRADIENT_METHODS = ("grad_cam", "grad_cam_pp", "elementwise_grad_cam")
"""The methods that use a layer's gradients; a test checks that they equal `wsss.ops.grad_cam.METHODS`."""
STAGE_METHODS = ("region_cam", "self_similarity")
"""The methods that use the features of all stages of the encoder."""
PROTOTYPE_METHOD = "lpcam"
"""The method that uses prototypes of classes."""
_Rate = Annotated[float, Field(ge=0, lt=1)]


@settings
class CamSettings(LabelReading):
    """The method, the views and the normalisation of the maps."""

    method: Literal[
        "cam", "grad_cam", "grad_cam_pp", "elementwise_grad_cam", "stochastic", "region_cam", "self_similarity", "lpcam"
    ] = "cam"
    """`cam`: Zhou et al. 2016, with scales merged as in irn; `grad_cam`, `grad_cam_pp`, `elementwise_grad_cam`: maps
    computed from gradients; `stochastic`: FickleNet's maps; `region_cam`: gradients of every stage of the encoder,
    spread to positions with similar features; `self_similarity`: the same for the activation map, without gradients;
    `lpcam`: the similarity of features to the prototypes of a class that make_prototypes computed."""
    finest_stride: Annotated[int, Field(ge=1, le=64), active_with("method", *STAGE_METHODS)] = 4
    """region_cam and self_similarity: stages with features of this stride or a larger one are used (and always the
    features that the head reads); 8 leaves out a stage that mainly shows edges and colours. A vision transformer has
    four stages of stride 16, each a quarter of its blocks."""
    target_layer: str = LAST_LAYER
    """Layer for the methods that use gradients: `last`, or a dotted name in timm's network, such as `blocks.5`. Of a
    vision transformer only `last` is a map."""
    normalisation: Literal["per_class", "global"] = "per_class"
    """Maps are divided by their own maximum (`per_class`, as in irn), or by the largest maximum of all classes
    (`global`, as in NoPeopleAllowed)."""
    square_root: Annotated[bool, active_unless("square_root", False)] = False
    """Take the square root of the maps of every view before they are added, as AffinityNet's public code does for
    VGG16: weak activations become stronger. Not with method = "stochastic"."""
    flatten: Annotated[float, Field(ge=0, lt=1), active_unless("flatten", 0.0)] = 0.0
    """Make maps with high peaks flatter, after the normalisation: M^(1 - flatten * std / mean of the values above
    `flatten_above`). PMM uses 0.3; 0: off. Not with method = "stochastic"."""
    flatten_above: Annotated[float, Field(gt=0, lt=1), active_unless("flatten", 0.0)] = 0.05
    """flatten: values above this one count as the object's."""
    relative_to_others: Annotated[bool, active_unless("relative_to_others", False)] = False
    """Divide each class's map by 1 + the sum of the other classes' maps, after the normalisation and `flatten`, so that
    positions where several classes are active get lower values. Not with method = "stochastic"."""
    unknown_classes: Literal["left_out", "undecided", "predicted"] = "left_out"
    """What becomes of an image that may show learned classes beside its labels, so that no pixel is certain to be
    background. `left_out`: the image is left out, here and in all later stages, and counted; `undecided`: its labelled
    classes are used, and labels made from the maps have 255 instead of background; `predicted`: the classifier decides,
    see unlabelled_threshold."""
    unlabelled_threshold: Annotated[float, Field(gt=0, lt=1), active_with("unknown_classes", "predicted")] = 0.5
    """predicted: an unknown class gets a map if the classifier gives it at least this probability, else it counts as
    absent."""
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    """Scales of the image, as factors of its size."""
    long_side: Annotated[int, Field(ge=0), active_unless("long_side", 0)] = 0
    """Scales are factors of a longer side of this many pixels, such as the middle of the sizes in training, so that 0.5
    and 2 mean half and twice of what was learned; 0: factors of each image's own size. `max_side` limits views
    nevertheless, and no side gets shorter than 32 pixels."""
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
