"""What every training of a classifier offers to the stages that read the trained network."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wsss.contract.settings import ActiveIf, active_with, settings
from wsss.contract.stage import Instance
from wsss.data.augment import SizeRange
from wsss.stages.settings.encoder import EncoderSource

_VALIDATED = ActiveIf("a validation_split", lambda stage: stage.validation_split != "")


@settings
class ClassifierTraining(EncoderSource):
    """A training that leaves a `wsss.models.classifier.Classifier`: which classes, which head, which images."""

    trains: ClassVar[str] = "classifier"

    only_classes: tuple[str, ...] = ()
    """Classes that are learned; empty learns all. A class that is trained apart has a classifier of its own."""
    dropped_classes: tuple[str, ...] = ()
    """Classes that are not learned: no later stage sees them, and their pixels count as background in the labels made.
    Training images that show no other class are left out of the maps and all that follows."""
    head: Literal["linear", "stochastic"] = "linear"
    """`linear`: global average pooling and a linear layer; `stochastic`: FickleNet's random choice of hidden units."""
    stochastic_kernel: Annotated[int, Field(ge=1), active_with("head", "stochastic")] = 9
    """stochastic: side s of the window that units are chosen in; odd."""
    stochastic_drop_rate: Annotated[float, Field(ge=0, lt=1), active_with("head", "stochastic")] = 0.9
    """stochastic: probability p that a unit is dropped."""
    stochastic_units: Annotated[Literal["windows", "units"], active_with("head", "stochastic")] = "windows"
    """stochastic: every window chooses its units (FickleNet), or ordinary dropout of the map does."""
    crop_size: Annotated[int, Field(ge=32)] = 512
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (320, 640)
    """Range of the longer side before cropping."""
    colour_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of random colour changes."""
    validation_split: str = "val"
    """Split whose labels measure F1 and mean average precision after training; empty skips it."""
    validation_size: Annotated[int, Field(ge=32), _VALIDATED] = 512
    """Longer side of validation images in pixels."""

    def learned(self, instance: Instance) -> list[int]:
        """Ids of the classes that are learned. Raises ValueError for a name that is none, and where none is left."""
        taxonomy = instance.taxonomy
        only = {taxonomy.id_of(name) for name in self.only_classes or taxonomy.names}
        learned = sorted(only - {taxonomy.id_of(name) for name in self.dropped_classes})
        if not learned:
            raise ValueError(f"{instance.name}: only_classes and dropped_classes leave no class to learn")
        return learned
