"""The base class of a segmenter's objectives. To add one, add a file next to this one and an entry in
`train_segmenter.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from wsss.contract.cost import FitWork, Units
from wsss.contract.fit import TrainingSet
from wsss.contract.slots import Slot
from wsss.contract.stage import Instance
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter
    from wsss.tasks.task import Task


class Objective(ABC):
    """The objective that a segmenter is trained with: its inputs, checks, network, task and training set."""

    slots: ClassVar[Mapping[str, Slot]]
    """Inputs in addition to the samples and the classifier; `used_slots` returns those that are read."""

    def __init__(self, training: Any) -> None:
        """`training`: an `ImageSegmenterTraining` that also holds this objective's own settings."""
        self.training: ImageSegmenterTraining = training

    def used_slots(self) -> frozenset[str]:
        """The inputs of `slots` that are read with these settings."""
        return frozenset(self.slots)

    def reads_boxes(self) -> bool:
        """True if it trains with boxes."""
        return False

    @abstractmethod
    def check(self, instance: Instance) -> None:
        """Raise ValueError if settings and inputs do not fit together."""

    def check_environment(self, instance: Instance) -> None:
        """Check what needs the network without its weights; by default nothing. Raises ValueError."""
        return

    def loss_units(self, instance: Instance) -> Units:
        """Cost of the loss for one example, in addition to the network, for `wsss plan`."""
        return {}

    def with_all_passes(self, work: FitWork) -> FitWork:
        """The work of a training whose network sees every example once, with what else passes through networks, for
        `wsss plan`."""
        return work

    def network(self, instance: Instance, *, pretrained: bool) -> Segmenter | DeepLab:
        """The network before its first step; `pretrained` loads its initial weights."""
        return self.training.segmenter(instance, pretrained=pretrained)

    @abstractmethod
    def task(self, instance: Instance) -> Task:
        """The network with its losses."""

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch, on the device of the training, with what else of it the task reads as the image: normalised."""
        return batch

    @abstractmethod
    def training_set(self, instance: Instance) -> TrainingSet:
        """The training set."""

    def starting_network(self, instance: Instance) -> Segmenter | DeepLab:
        """The network with its initial weights."""
        return self.network(instance, pretrained=True)
