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
    """Maps of a class that the classifier does not see are noise; the 3rd-placed entry of LID 2020 left such images
    out (41,156 of about 72,000 were kept, by a list named after the probability 0.8).
    """

    min_probability: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Training images are left out, and counted, where the classifier gives any of their classes a lower probability
    than this; 0 keeps all of them. Images without a class, and other splits, are kept."""

    def check_probabilities(self, instance: Instance) -> None:
        """Refuse maps that will carry no probabilities."""
        cams = instance.inputs["cams"]
        fields = instance.stage_in("cams", Map).optional_fields(cams)
        if self.min_probability > 0 and "probabilities" not in fields:
            raise ValueError(
                f"{instance.name}.min_probability = {self.min_probability}: the maps of {cams.name} carry no "
                "probability of a classifier (a segmenter's maps do where their weight is below 1); set "
                "min_probability = 0"
            )

    def plan_notes(self) -> tuple[str, ...]:
        """What `wsss plan` does not know of these settings."""
        if self.min_probability == 0:
            return ()
        return ("min_probability leaves images out, how many is not known; all are counted",)

    def left_out(self, joined: Mapping[str, Record], shard: str) -> Missing | None:
        """What stands in for an image that is left out; None where it is kept. `joined` holds its `cams`.

        Raises: ValueError for maps that were made without probabilities.
        """
        cams = cast(CamRecord, joined["cams"])
        if self.min_probability == 0 or split_of(shard) != _TRAIN or len(cams.classes) == 0:
            return None
        if cams.probabilities is None:
            raise ValueError(
                f"min_probability = {self.min_probability}: the maps of {cams.key!r} carry no probabilities; "
                "run make_cams again, or set min_probability = 0"
            )
        lowest = int(cams.probabilities.argmin())
        probability = float(cams.probabilities[lowest])
        if probability >= self.min_probability:
            return None
        reason = f"class {cams.classes[lowest]} has probability {probability:.2f}, below min_probability"
        return Missing(key=cams.key, reason=reason, left_out=True)
