"""The settings that every classifier training has, which stages that use the trained network read."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wsss.contract.settings import ActiveIf, active_unless, active_with, settings
from wsss.contract.stage import Instance
from wsss.data.augment import SizeRange
from wsss.stages.settings.encoder import EncoderSource
from wsss.stages.settings.trained_sizes import Views, outside_notes
from wsss.stages.settings.unknown_classes import LabelReading

HELD_OUT = "held_out"
"""Value of `validation_split` for the images of the training split that are not trained on."""
_VALIDATED = ActiveIf("a validation_split", lambda stage: stage.validation_split != "")


@settings
class ClassifierTraining(LabelReading, EncoderSource):
    """A training that produces a `wsss.models.classifier.Classifier`: its classes, head and images."""

    trains: ClassVar[str] = "classifier"

    only_classes: tuple[str, ...] = ()
    """Names of the classes that are learned; empty learns all. A very frequent class can get its own classifier
    (make_cams.second_classifier)."""
    dropped_classes: tuple[str, ...] = ()
    """Names of classes that are not learned. Later stages do not see them, and their pixels become background in the
    labels. Training images that show no other class are left out of the maps and of all later stages."""
    head: Literal["linear", "stochastic"] = "linear"
    """`linear`: global average pooling and a linear layer; `stochastic`: FickleNet's random choice of hidden units."""
    stochastic_kernel: Annotated[int, Field(ge=1), active_with("head", "stochastic")] = 9
    """stochastic: side s of the window in which units are chosen; must be odd."""
    stochastic_drop_rate: Annotated[float, Field(ge=0, lt=1), active_with("head", "stochastic")] = 0.9
    """stochastic: probability p that a unit is dropped."""
    stochastic_units: Annotated[Literal["windows", "units"], active_with("head", "stochastic")] = "windows"
    """stochastic: `windows` chooses units in every window separately (FickleNet); `units` is ordinary dropout on the
    feature map."""
    crop_size: Annotated[int, Field(ge=32)] = 512
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (320, 640)
    """Range from which the longer side is drawn before cropping, in pixels."""
    augmentation: Annotated[Literal["weak", "strong"], active_unless("augmentation", "weak")] = "weak"
    """`weak`: random scale, flip, crop and colours; `strong`: also rotation, elastic deformation, noise, and changes of
    tone and sharpness (NoPeopleAllowed's list)."""
    colour_jitter: Annotated[float, Field(ge=0, le=1), active_with("augmentation", "weak")] = 0.0
    """weak: strength of random colour changes; 0 makes none."""
    images_per_class: Annotated[int, Field(ge=0), active_unless("images_per_class", 0)] = 0
    """Train on a fixed part of the training images, in which every learned class is shown by about this many (by all
    that it has, if these are fewer); which ones depends on their keys and the recipe's seed. Images that show no
    learned class are not in it. 0: all images. This is down-sampling once, for all epochs; `balance` draws other images
    in every epoch. make_cams.train_images = "classifier" restricts later stages to the same images (NoPeopleAllowed:
    84,000 images of 199 classes, of which the rarest has 461)."""
    known_only: Annotated[bool, active_unless("known_only", False)] = False
    """Train only on images of which at least one learned class is known to be present or absent. The others have no
    loss and only take time: most images of ILSVRC DET, for a classifier of person alone."""
    hold_out: Annotated[float, Field(ge=0, lt=1), active_unless("hold_out", 0.0)] = 0.0
    """Share of the images of the split train (with images_per_class: of the chosen ones) that this classifier is not
    trained on; which ones depends on their keys and the recipe's seed. With validation_split = "held_out" it is
    validated on these (NoPeopleAllowed: 12,000 of 84,000, a share of 0.143). Later stages use them nevertheless, unless
    make_cams.train_images = "classifier"."""
    validation_split: str = "val"
    """Split on whose labels F1 and mean average precision are measured after training, or `held_out`, the images that
    hold_out excludes from training; empty skips this."""
    validation_size: Annotated[int, Field(ge=32), _VALIDATED] = 512
    """Longer side of validation images in pixels."""

    def cautions(self, instance: Instance) -> list[str]:
        if not self.validation_split or self.validation_split not in instance.data.splits:
            return []
        views = Views(long_side=self.validation_size, resized_by="validation_size", verb="validates on")
        return outside_notes(instance, instance, views, splits=(self.validation_split,))

    def check(self, instance: Instance) -> None:
        super().check(instance)
        if self.images_per_class and len(self.learned(instance)) == 1:
            raise ValueError(
                f"{instance.name}.images_per_class = {self.images_per_class} keeps only images that show a learned "
                "class, and this classifier learns one: it would see no image without it; set images_per_class = 0"
            )

    def planned_images(self, instance: Instance, images: int, *, labels: float) -> int:
        """How many of the training images `images_per_class` chooses, for `wsss plan`.

        `labels`: mean number of classes of an image that shows any.
        """
        if not self.images_per_class:
            return images
        return min(images, round(self.images_per_class * len(self.learned(instance)) / labels))

    def learned_classes(self, instance: Instance) -> frozenset[int] | None:
        return frozenset(self.learned(instance))

    def learned(self, instance: Instance) -> list[int]:
        """Ids of the classes that are learned. Raises ValueError for an unknown class name, or if no class is left."""
        taxonomy = instance.taxonomy
        only = {taxonomy.id_of(name) for name in self.only_classes or taxonomy.names}
        learned = sorted(only - {taxonomy.id_of(name) for name in self.dropped_classes})
        if not learned:
            raise ValueError(f"{instance.name}: only_classes and dropped_classes leave no class to learn")
        return learned
