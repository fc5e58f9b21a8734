"""The settings that every classifier training has, which stages that use the trained network read."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wsss.contract.settings import ActiveIf, active_with, settings
from wsss.contract.stage import Instance
from wsss.data.augment import SizeRange
from wsss.stages.settings.encoder import EncoderSource
from wsss.stages.settings.trained_sizes import Views, outside_notes
from wsss.stages.settings.unknown_classes import LabelReading

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
    colour_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of random colour changes; 0 makes none."""
    validation_split: str = "val"
    """Split on whose labels F1 and mean average precision are measured after training; empty skips this."""
    validation_size: Annotated[int, Field(ge=32), _VALIDATED] = 512
    """Longer side of validation images in pixels."""

    def cautions(self, instance: Instance) -> list[str]:
        if not self.validation_split or self.validation_split not in instance.data.splits:
            return []
        views = Views(long_side=self.validation_size, resized_by="validation_size", verb="validates on")
        return outside_notes(instance, instance, views, splits=(self.validation_split,))

    def learned(self, instance: Instance) -> list[int]:
        """Ids of the classes that are learned. Raises ValueError for an unknown class name, or if no class is left."""
        taxonomy = instance.taxonomy
        only = {taxonomy.id_of(name) for name in self.only_classes or taxonomy.names}
        learned = sorted(only - {taxonomy.id_of(name) for name in self.dropped_classes})
        if not learned:
            raise ValueError(f"{instance.name}: only_classes and dropped_classes leave no class to learn")
        return learned
