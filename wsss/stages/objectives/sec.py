"""sec: trains on seeds, on the image's labels, and on the output of a dense CRF: seed, expand and constrain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from wsss.contract.settings import active_with, settings
from wsss.contract.stage import Instance
from wsss.stages.classifier.mapped_classes import mapped_classes
from wsss.stages.objectives.dsrg import Dsrg, DsrgSettings

if TYPE_CHECKING:
    from wsss.stages.segmenter.images import SeededImages
    from wsss.tasks.sec import SecTask

_Decay = Annotated[float, Field(ge=0, le=1), active_with("objective", "sec")]


@settings
class SecSettings(DsrgSettings):
    """How scores are pooled over an image. The dense CRF is that of DSRG's settings, whose public code is SEC's."""

    expand_foreground_decay: _Decay = 0.996
    """sec: decay per rank of the weights by which the sorted scores of a class present are averaged: 1 is the mean, 0
    the maximum."""
    expand_background_decay: _Decay = 0.999
    """sec: the same for the background."""


class Sec(Dsrg):
    """Seed, expand and constrain. With masks of some images, their loss is added as in semi-supervised FickleNet.

    A class for which an image was not checked counts as unknown, whatever `unchecked` says for the maps: it is neither
    expanded nor pushed down.

    Source: Kolesnikov and Lampert, ECCV 2016.
    """

    name: ClassVar[str] = "sec"

    def __init__(self, training: SecSettings) -> None:
        super().__init__(training)
        self.settings: SecSettings = training

    def check(self, instance: Instance) -> None:
        """Raises: ValueError as `Dsrg`, and if images have labels of which there can be no seeds."""
        super().check(instance)
        names = instance.taxonomy.names
        without = [name for c, name in enumerate(names, start=1) if c not in mapped_classes(instance)]
        if without:
            raise ValueError(
                f"{instance.name}.objective = 'sec' expands every class that an image is labelled with, but no "
                f"classifier behind its seeds learns {without[0]!r} ({len(without)} such); learn it (dropped_classes, "
                "only_classes), or set objective = 'dsrg'"
            )

    def weak_task(self, instance: Instance) -> SecTask:
        from wsss.tasks.sec import SecTask

        return SecTask(
            self.starting_network(instance),
            crf=self.crf_in_the_loop(),
            foreground_decay=self.settings.expand_foreground_decay,
            background_decay=self.settings.expand_background_decay,
            synchronise_norms=self.training.synchronise_norms,
        )

    def images(self) -> type[SeededImages]:
        from wsss.stages.segmenter.images import LabelledSeededImages

        return LabelledSeededImages
