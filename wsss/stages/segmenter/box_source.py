"""Where the boxes come from that self-correcting networks are told, and the planes made of them.

Shape letters: `C` classes with background, `K` classes with boxes, `H W` pixels, `h w` the grid of stride 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, cast

import numpy as np
import torch
from pydantic import Field

from shards.boxes import boxes_of_mask
from shards.records import GRID_STRIDE, BadSampleError, Box, CamRecord, Record, Sample
from wsss.contract.settings import read_with, settings
from wsss.contract.stage import Instance, Map
from wsss.ops.box_planes import box_planes
from wsss.stages.segmenter.full_set import TRAIN, framed_keys, masked_keys

_LEAST_PART = 0.1
"""Components of a map that are smaller than this part of the class's largest one frame no object."""


@settings
class BoxSource:
    """Boxes as annotators drew them, or stand-ins for these. For a class with a slot `cams`."""

    box_source: Literal["annotated", "masks", "cams"] = "annotated"
    """`annotated`: the samples' own (build_shards.boxes); `masks`: around the components of each class's mask, where no
    box was drawn but masks are at hand; `cams`: around the components of activation maps, for data with image-level
    labels alone (the paper has annotated boxes)."""
    box_threshold: Annotated[float, Field(gt=0, lt=1), read_with("box_source", "cams")] = 0.25
    """cams: a box frames what is connected above this value of its class's map."""

    def check_boxes(self, instance: Instance) -> None:
        """Raises: ValueError where boxes are asked of samples that have none, or of maps of other splits."""
        if self.box_source == "cams":
            self.require_maps(instance, split=TRAIN)
        samples = instance.inputs["samples"]
        source = getattr(samples.stage, "source", ""), getattr(samples.stage, "boxes", "none")
        if self.box_source == "annotated" and source == ("voc", "none"):
            raise ValueError(
                f"{instance.name}.box_source = 'annotated', but {samples.name}.boxes = 'none'; set it to "
                f"'annotations', or {instance.name}.box_source to 'cams' (around maps) or 'masks' (around masks)"
            )

    def require_maps(self, instance: Instance, *, split: str) -> None:
        """Raises: ValueError where no maps of a split are made to draw boxes around."""
        cams = instance.inputs["cams"]
        assert isinstance(cams.stage, Map)
        if split not in cams.stage.splits:
            raise ValueError(
                f"{instance.name}.box_source = 'cams' reads the split {split!r}, which {cams.name} does not make; it "
                f"makes {', '.join(cams.stage.splits)}: add it to {cams.name}.splits"
            )

    def require_framed(self, instance: Instance, num_framed: int) -> None:
        """Raises: ValueError where none of the images that train on masks has boxes that are known."""
        if not num_framed:
            raise ValueError(
                f"{instance.name}.box_source = {self.box_source!r}: of none of the images that "
                f"{instance.name}.full_share trains on masks the boxes are known; set a larger share, or another source"
            )

    def with_boxes(self, instance: Instance, *, split: str = TRAIN) -> frozenset[str] | None:
        """Keys of the images whose boxes are known; None where all have some, from maps.

        Raises: ValueError where none has.
        """
        if self.box_source == "cams":
            return None
        samples = instance.inputs["samples"]
        known = framed_keys if self.box_source == "annotated" else masked_keys
        keys = known(samples.layer, split=split)
        if not keys:
            has = "boxes" if self.box_source == "annotated" else "a mask"
            raise ValueError(
                f"{instance.name}.box_source = {self.box_source!r}, but no image of split {split!r} of {samples.name} "
                f"has {has}; set {instance.name}.box_source = 'cams'"
            )
        return keys

    def boxes_of(self, sample: Sample, cams: Record | None) -> tuple[Box, ...]:
        """The boxes of one image. Raises `BadSampleError` where they are not known."""
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
        mask_hw = np.where(map_hw > threshold, class_id, 0).astype(np.uint8)
        for _, top, left, bottom, right in boxes_of_mask(mask_hw, least_part=_LEAST_PART):
            ends = min(bottom * GRID_STRIDE, size[0]), min(right * GRID_STRIDE, size[1])
            boxes.append(Box(class_id, top * GRID_STRIDE, left * GRID_STRIDE, *ends))
    return tuple(boxes)


def framed_planes(boxes: Iterable[Box], *, size: tuple[int, int]) -> tuple[list[int], np.ndarray]:
    """The classes with boxes, ascending, and u8[H, W, K]: 1 inside those of each class."""
    boxes = tuple(boxes)
    classes = sorted({box.class_id for box in boxes})
    planes = np.zeros((*size, len(classes)), np.uint8)
    for class_id, top, left, bottom, right in boxes:
        planes[top:bottom, left:right, classes.index(class_id)] = 1
    return classes, planes


def grid_planes(framed_HWK: np.ndarray, classes: list[int], *, num_classes: int) -> torch.Tensor:
    """bool[C, h, w] on the grid of stride 4, from planes of pixels; other values than 1 are outside every box."""
    middle = GRID_STRIDE // 2
    framed_Khw = torch.from_numpy(framed_HWK[middle::GRID_STRIDE, middle::GRID_STRIDE] == 1).permute(2, 0, 1)
    return box_planes(framed_Khw, classes=classes, num_classes=num_classes)
