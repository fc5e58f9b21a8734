"""The source of the boxes that self-correcting networks train with."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import numpy as np
from pydantic import Field

from shards.boxes import boxes_of_mask
from shards.records import GRID_STRIDE, BadSampleError, Box, CamRecord, Record, Sample
from wsss.contract.settings import active_with, settings
from wsss.contract.stage import Instance, Map
from wsss.stages.segmenter.mask_supervision import TRAIN, boxed_keys, masked_keys

_LEAST_PART = 0.1
"""Components of a map get no box if they are smaller than this share of the class's largest component."""


@settings
class BoxSource:
    """Annotated boxes, or boxes made from masks or activation maps. Subclasses must have a slot `cams`."""

    box_source: Literal["annotated", "masks", "cams"] = "annotated"
    """`annotated`: the samples' boxes (build_shards.boxes), as in the paper; `masks`: bounding boxes of the components
    of each class's mask, for data that have masks but no boxes; `cams`: bounding boxes of the components of activation
    maps, for data with only image-level labels."""
    box_threshold: Annotated[float, Field(gt=0, lt=1), active_with("box_source", "cams")] = 0.25
    """cams: boxes are drawn around connected components of pixels whose score is above this."""

    def check_boxes(self, instance: Instance) -> None:
        """Raises: ValueError if the samples have no boxes but are to provide them, or if the maps lack the split."""
        if self.box_source == "cams":
            self.require_maps(instance, split=TRAIN)
        samples = instance.inputs["samples"]
        if self.box_source == "annotated" and "boxes" not in instance.stage_in("samples", Map).optional_fields(samples):
            raise ValueError(
                f"{instance.name}.box_source = 'annotated', but {samples.name} has no boxes; set {samples.name}.boxes "
                f"= 'annotations', or {instance.name}.box_source = 'cams' (around maps) or 'masks' (around masks)"
            )

    def require_maps(self, instance: Instance, *, split: str) -> None:
        """Raises: ValueError if there are no maps of this split to draw boxes around."""
        cams, splits = instance.inputs["cams"], instance.stage_in("cams", Map).splits
        if split not in splits:
            raise ValueError(
                f"{instance.name}.box_source = 'cams' reads the split {split!r}, but {cams.name} makes only "
                f"{', '.join(splits)}; add {split!r} to {cams.name}.splits"
            )

    def require_boxes(self, instance: Instance, num_boxed: int) -> None:
        """Raises: ValueError if no image selected for training on masks has known boxes."""
        if not num_boxed:
            raise ValueError(
                f"{instance.name}.box_source = {self.box_source!r}: no image selected by {instance.name}.full_share "
                "has known boxes; set a larger share, or another source"
            )

    def with_boxes(self, instance: Instance, *, split: str = TRAIN) -> frozenset[str] | None:
        """Keys of the images with known boxes; None if boxes are made from maps, so that every image has them.

        Raises: ValueError if no image has known boxes.
        """
        if self.box_source == "cams":
            return None
        samples = instance.inputs["samples"]
        known = boxed_keys if self.box_source == "annotated" else masked_keys
        keys = known(samples.layer, split=split)
        if not keys:
            has = "boxes" if self.box_source == "annotated" else "a mask"
            raise ValueError(
                f"{instance.name}.box_source = {self.box_source!r}, but no image of split {split!r} of {samples.name} "
                f"has {has}; set {instance.name}.box_source = 'cams'"
            )
        return keys

    def boxes_of(self, sample: Sample, cams: Record | None) -> tuple[Box, ...]:
        """The boxes of one image. Raises `BadSampleError` if they are not known."""
        if self.box_source == "annotated":
            if sample.boxes is None:
                raise BadSampleError("its boxes are not known")
            return sample.boxes
        if self.box_source == "masks":
            if sample.mask is None:
                raise BadSampleError("it has no mask to draw boxes around")
            return boxes_of_mask(sample.mask)
        return _boxes_of_maps(cast(CamRecord, cams), threshold=self.box_threshold, size=sample.size)


def _boxes_of_maps(cams: CamRecord, *, threshold: float, size: tuple[int, int]) -> tuple[Box, ...]:
    boxes = []
    for class_id, map_hw in zip(cams.classes.tolist(), cams.maps, strict=True):
        mask_hw = np.where(map_hw > threshold, 1, 0).astype(np.uint8)
        for _, top, left, bottom, right in boxes_of_mask(mask_hw, least_part=_LEAST_PART):
            ends = min(bottom * GRID_STRIDE, size[0]), min(right * GRID_STRIDE, size[1])
            boxes.append(Box(class_id, top * GRID_STRIDE, left * GRID_STRIDE, *ends))
    return tuple(boxes)


def require_same_boxes(stage: BoxSource, instance: Instance, other: Instance) -> None:
    """Raises: ValueError if `other` was trained with boxes from another source."""
    assert isinstance(other.stage, BoxSource)
    for setting in ("box_source", "box_threshold"):
        own, its = getattr(stage, setting), getattr(other.stage, setting)
        if own != its and (setting == "box_source" or stage.box_source == "cams"):
            raise ValueError(
                f"{instance.name}.{setting} = {own!r}, but {other.name} was trained with {its!r}; set the same value"
            )
    mine, theirs = (one.inputs.get("cams") for one in (instance, other))
    if mine is not None and theirs is not None and mine.fingerprint != theirs.fingerprint:
        raise ValueError(
            f"{instance.name} draws boxes around the maps of {mine.name}, but {other.name} around those of "
            f"{theirs.name}; name the same maps as inputs.cams of both"
        )
