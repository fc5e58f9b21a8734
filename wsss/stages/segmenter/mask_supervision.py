"""The choice of training images that train on their own masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from shards.layer import Layer
from wsss.contract.settings import ActiveIf, DefaultBy, FileContent, active_unless, settings
from wsss.contract.stage import Instance
from wsss.stages.data_sets.listed_images import not_in_data
from wsss.stages.segmenter.training import SegmenterTraining, require_masks

TRAIN = "train"
_DRAWN = ActiveIf("full_share above 0", lambda stage: stage.full_share > 0)
_FULL_WEIGHT = {"self_correction": 1.0}
"""Objective -> default of `full_weight`, if it is not 2."""
_BY_OBJECTIVE = DefaultBy(lambda stage: _FULL_WEIGHT.get(getattr(stage, "objective", ""), 2.0))
_MIXED = ActiveIf("masks of some images and weaker labels of others", lambda stage: stage.supervision() == "semi")


@settings
class MaskSupervision(SegmenterTraining):
    """Which images train on their masks: a share of all images with masks, or of a list."""

    full_share: Annotated[float, Field(ge=0, le=1), active_unless("full_share", 0.0)] = 0.0
    """Share of the training images with masks that train on their masks, drawn with the recipe's seed: 0 none, 1 all.
    The images of a smaller share are a subset of those of a larger one."""
    full_list: Annotated[str, FileContent(), _DRAWN, active_unless("full_list", "")] = ""
    """File of keys, one per line. If given, `full_share` is a share of these images instead of all training images with
    masks. On a cluster, all nodes must share the path."""

    def supervision(self) -> Literal["image", "semi", "full"]:
        if not self.full_share:
            return "image"
        return "full" if self.full_share == 1 and not self.full_list else "semi"

    def reads_masks(self) -> bool:
        return self.full_share > 0 or super().reads_masks()

    def check_mask_supervision(self, instance: Instance) -> None:
        """Raises: ValueError if `full_list` is not a file or names images that the data set does not have, or if the
        data set's settings exclude masks."""
        planned_only = self.full_list.startswith("$")  # the environment variable may be unset in a plan without data
        if self.full_list and not planned_only and not Path(self.full_list).is_file():
            raise ValueError(
                f"{instance.name}.full_list = {self.full_list!r} does not exist; give a file of keys, one per line"
            )
        if self.full_list and not planned_only and (absent := not_in_data(instance, _lines(self.full_list), [TRAIN])):
            raise self._names_others(instance, absent)
        if self.full_share:
            require_masks(instance, TRAIN, wanted=f"{instance.name}.full_share = {self.full_share} trains on masks")

    def planned_masks(self, images: int) -> int | None:
        """How many of `images` train on their masks, for a plan; None if `full_list` cannot be read here."""
        if not self.full_list:
            return round(self.full_share * images)
        try:
            return min(images, round(self.full_share * len(_lines(self.full_list))))
        except OSError:
            return None

    def full_keys(self, instance: Instance) -> frozenset[str]:
        """Keys of the training images that train on their masks: the same for all stages with equal settings.

        Raises: ValueError if no image has a mask, if a listed image has none, or if the share is less than one image.
        """
        samples = instance.inputs["samples"]
        # Trainings without a fold choose among the same images, and each uses those that it sees.
        whole = replace(samples.layer, without=None)
        masked, seen = (masked_keys(layer, max_shards=self.max_shards) for layer in (whole, samples.layer))
        if not masked:
            raise ValueError(
                f"{instance.name}.full_share = {self.full_share}: no training image of {samples.name} has a mask; "
                "see its masked_splits, or set full_share = 0"
            )
        among = self._listed(instance, whole, masked) if self.full_list else masked
        number = round(self.full_share * len(among))
        if not number:
            raise ValueError(
                f"{instance.name}.full_share = {self.full_share} of {len(among)} images with masks is less than one; "
                f"set at least {1 / len(among):.2g}"
            )
        return seen.intersection(sorted(among, key=lambda key: _rank(key, samples.seed))[:number])

    def _names_others(self, instance: Instance, absent: Sequence[str]) -> ValueError:
        return ValueError(
            f"{instance.name}.full_list: {self.full_list} names {absent[0]!r} ({len(absent)} such), which is not a "
            f"training image with a mask in {instance.inputs['samples'].name}; remove it from the file"
        )

    def _listed(self, instance: Instance, samples: Layer, masked: frozenset[str]) -> list[str]:
        """The listed images of the shards that are used."""
        listed, anywhere = _lines(self.full_list), masked_keys(samples)
        if absent := [key for key in listed if key not in anywhere]:
            raise self._names_others(instance, absent)
        used = [key for key in listed if key in masked]
        if not used:
            raise ValueError(f"{instance.name}.full_list: {self.full_list} names no image that is used")
        return used


@settings
class MixedBatches(MaskSupervision):
    """Batches that mix images with masks and images with weaker labels."""

    full_per_batch: Annotated[int, Field(ge=1), _MIXED] = 4
    """Number of images with masks in every batch; the rest of the batch are other images. An epoch is one pass over the
    other images."""
    full_weight: Annotated[Annotated[float, Field(gt=0)] | None, _MIXED, _BY_OBJECTIVE] = None
    """Weight of the loss on masks, relative to the loss on weaker labels. If not given, 1 with objective =
    "self_correction" (self-correcting networks add both losses), and 2 with the others (FickleNet: alpha = 2)."""

    def check_mixture(self, instance: Instance) -> None:
        """Raises: ValueError if a batch would have no image without a mask."""
        self.check_mask_supervision(instance)
        if self.supervision() == "semi" and self.full_per_batch >= self.batch_size:
            raise ValueError(
                f"{instance.name}.full_per_batch = {self.full_per_batch} leaves no room for other images in "
                f"batch_size = {self.batch_size}; set at most {self.batch_size - 1}"
            )


def masked_keys(samples: Layer, *, split: str = TRAIN, max_shards: int | None = None) -> frozenset[str]:
    """Keys of the images with masks in a split's first shards, from the manifest only; of cross-fitting, in those of
    the first shards of all folds that the training sees."""
    first = islice(replace(samples, without=None).manifest_entries(split), max_shards)
    fold = samples.without
    entries = [entry.entries for entry in first if fold is None or not fold.leaves_out(entry.shard)]
    return frozenset(key for of in entries for key, has in zip(of.keys, of.metadata("has_mask"), strict=True) if has)


def boxed_keys(samples: Layer, *, split: str = TRAIN) -> frozenset[str]:
    """Keys of the images of a split whose boxes are annotated, including images annotated as empty, by the manifest."""
    entries = (entry.entries for entry in samples.manifest_entries(split))
    return frozenset(
        key for of in entries for key, boxes in zip(of.keys, of.metadata("boxes"), strict=True) if boxes is not None
    )


def _lines(path: str) -> list[str]:
    """The keys in a file, each once."""
    keys = dict.fromkeys(line.strip() for line in Path(path).read_text("utf-8-sig").splitlines())
    return [key for key in keys if key]


def _rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"full {seed} {key}".encode()).digest()
