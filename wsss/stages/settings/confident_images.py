"""The choice of training images whose labels the classifier agrees with, shared by the stages that read maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

from pydantic import Field

from shards.layer import split_of
from shards.records import CamRecord, Missing, Record
from wsss.contract.settings import settings
from wsss.contract.stage import Instance, Map

_TRAIN = "train"


@settings
class ConfidentImages:
    """Leave out images with a label that the classifier does not predict: the map of such a class is mostly noise.

    The 3rd-placed entry of LID 2020 left such images out (it kept 41,156 of about 72,000, from a list whose name
    mentions the probability 0.8).
    """

    min_probability: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A training image is left out (and counted as such) if the classifier gives any of its classes a probability
    below this; 0 keeps all images. Images without a class, and images of other splits, are always kept."""

    def check_probabilities(self, instance: Instance) -> None:
        """Refuse maps that will carry no probabilities."""
        cams = instance.inputs["cams"]
        fields = instance.stage_in("cams", Map).optional_fields(cams)
        if self.min_probability > 0 and "probabilities" not in fields:
            raise ValueError(
                f"{instance.name}.min_probability = {self.min_probability}: the maps of {cams.name} have no "
                "classifier probabilities (a segmenter's maps have them only if its weight is below 1); set "
                "min_probability = 0"
            )

    def plan_notes(self) -> tuple[str, ...]:
        """Effects of these settings that `wsss plan` cannot estimate."""
        if self.min_probability == 0:
            return ()
        return ("min_probability leaves out an unknown number of images; the plan counts all of them",)

    def left_out(self, joined: Mapping[str, Record], shard: str) -> Missing | None:
        """The `Missing` record for an image that is left out; None if it is kept. `joined` holds its `cams`.

        Raises: ValueError if the maps were made without probabilities.
        """
        cams = cast(CamRecord, joined["cams"])
        if self.min_probability == 0 or split_of(shard) != _TRAIN or len(cams.classes) == 0:
            return None
        if cams.probabilities is None:
            raise ValueError(
                f"min_probability = {self.min_probability}: the maps of {cams.key!r} have no probabilities; "
                "run make_cams again, or set min_probability = 0"
            )
        lowest = int(cams.probabilities.argmin())
        probability = float(cams.probabilities[lowest])
        if probability >= self.min_probability:
            return None
        reason = f"class {cams.classes[lowest]} has probability {probability:.2f}, below min_probability"
        return Missing(key=cams.key, reason=reason, left_out=True)
